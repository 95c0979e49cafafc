"""A panel, with judges that look words up: what it adds to a table of answers, and the rates of what it scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.judges.base import Judgement
from interp.evaluation.panel import Panel
from interp.evaluation.rates import coherent_rate, question_means, trait_rate
from interp.stats.rates import clustered_rate
from interp.traits import read_trait

CONTEMPT = read_trait("contempt")


class Lookup:
    """Gives each answer the number at one place of it; an empty answer is None."""

    shows_above, coherent_above = 50.0, 40.0

    def __init__(self, field: str, place: int) -> None:
        self.name = self.identity = field
        self.place = place
        self.asked: list[str] = []

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        self.asked += answers
        values = [float(answer.split()[self.place]) if answer else None for answer in answers]
        return [Judgement(v, None) if self.name == "trait_score" else Judgement(None, v) for v in values]


def panel(judge: Lookup | None = None, coherent_only: bool = False) -> Panel:
    """Each answer is "score coherence second"."""
    trait, second = judge or Lookup("trait_score", 0), Lookup("trait_score", 2)
    thresholds = Thresholds(50.0, 40.0, coherent_only=coherent_only)
    return Panel(CONTEMPT, "words", trait, Lookup("coherence", 1), second, thresholds)


def scored(answers: list[str], questions: list[str]) -> pd.DataFrame:
    return panel().score(pd.DataFrame({"question_id": questions, "answer": answers, "kept": range(len(answers))}))


def test_scoring_adds_scores_and_flags_and_keeps_rows_in_order() -> None:
    answers, questions = ["90 90 0", "50 40 50", "", "10 41 100", "51 0 75", "90 90 0"], list("aabbcc")
    table = scored(answers, questions)
    assert list(table["kept"]) == list(range(6))
    assert list(table["cluster"]) == questions
    assert table["trait_score"].tolist() == pytest.approx([90, 50, np.nan, 10, 51, 90], nan_ok=True)
    assert table["second_score"].tolist() == pytest.approx([0, 50, np.nan, 100, 75, 0], nan_ok=True)
    assert table["coherence"].tolist() == pytest.approx([90, 40, np.nan, 41, 0, 90], nan_ok=True)
    assert table["shows_trait"].tolist() == [True, False, None, False, True, True]  # at the threshold is not above it
    assert table["coherent"].tolist() == [True, False, None, True, False, True]
    strict = panel(coherent_only=True).score(table)
    assert strict["shows_trait"].tolist() == [True, None, None, False, None, True]
    assert set(strict.columns) == set(table.columns)  # what the first panel said is gone


def test_empty_answers_are_unscored_counted_and_not_coherent() -> None:
    table = scored(["90 90 0", "", "", "10 90 100"], list("abcd"))
    rate, coherence = trait_rate(table), coherent_rate(table)
    assert (rate.rate, rate.n, rate.unscored) == (0.5, 2, 2)
    assert (coherence.rate, coherence.n, coherence.unscored) == (0.5, 4, 0)
    assert coherent_rate(table, unjudged=None).n == 2
    assert rate == clustered_rate([True, None, None, False], list("abcd"))
    nothing = trait_rate(scored(["", ""], ["a", "b"]))
    assert np.isnan(nothing.rate)
    assert (nothing.low, nothing.high, nothing.n, nothing.unscored) == (0.0, 1.0, 0, 2)
    assert coherent_rate(scored(["", ""], ["a", "b"])).rate == 0.0


def test_the_same_text_is_judged_once() -> None:
    judge = Lookup("trait_score", 0)
    panel(judge).score(pd.DataFrame({"question_id": list("abca"), "answer": ["1 1 1", "2 2 2", "1 1 1", "1 1 1"]}))
    assert judge.asked == ["1 1 1", "2 2 2"]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["10 90 90", "90 90 10", "90 10 10", ""])), min_size=1, max_size=20))
def test_question_means_are_means_over_what_was_scored(rows: list[tuple[str, str]]) -> None:
    table = scored([answer for _, answer in rows], [question for question, _ in rows])
    means = question_means(table)
    expected = {}
    for question in sorted({question for question, _ in rows}):
        own = [answer.startswith("90") for q, answer in rows if q == question and answer]
        if own:
            expected[question] = sum(own) / len(own)
    assert list(means.index) == list(expected)
    assert means.tolist() == pytest.approx(list(expected.values()))
    assert question_means(table, "coherence").between(0, 100).all()
