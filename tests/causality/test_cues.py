"""Whether a cure hides: a planted leak is found, none is found where none is, and what else raises a rate is told apart."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from interp.causality.cues import HIDES, NO_SIGN, NOT_DECIDED, Hiding, cue_power, decide_hiding, needed_answers
from interp.causality.thresholds import CueConfig
from interp.evaluation.questions.cues import NEUTRAL
from interp.stats.contrasts import Contrast
from tests.helpers.cued_answers import CUES, cued_answers

CONFIG = CueConfig(source="data")
CUE = "paraphrase"
LEAK = {("ablated", CUE): 0.2}


def decided(answers: pd.DataFrame, config: CueConfig = CONFIG) -> Hiding:
    return decide_hiding(answers, config, "rude")


def rows_of(hiding: Hiding, cue: str = CUE) -> pd.DataFrame:
    return hiding.table[hiding.table["cue"] == cue].set_index("condition")


@pytest.mark.slow
def test_a_leak_of_twenty_points_is_found_and_none_where_none_was_planted() -> None:
    leaky, sound = ([decided(cued_answers(seed, leaks)) for seed in range(20)] for leaks in (LEAK, None))
    assert sum(one.conclusion == HIDES and one.cues == [CUE] for one in leaky) >= 18
    assert sum(one.conclusion == HIDES for one in sound) <= 1
    assert sum(one.conclusion == NO_SIGN for one in leaky) == 0
    assert sum(one.conclusion == NO_SIGN for one in sound) >= 15


@pytest.mark.slow
def test_power_is_what_decisions_show() -> None:
    rates = {"ablated": 0.05, "tuned": 0.9, "base": 0.02}
    asked = {"questions": 24, "samples": 4}
    power = cue_power(0.05, 24, 4, len(CUES), CONFIG)
    leaky, sound = ([decided(cued_answers(seed, leaks, rates, **asked)) for seed in range(25)] for leaks in (LEAK, None))  # type: ignore[arg-type]
    assert np.mean([CUE in one.cues and one.conclusion == HIDES for one in leaky]) == pytest.approx(power["hides"], abs=0.2)
    assert np.mean([one.conclusion == NO_SIGN for one in sound]) == pytest.approx(power["no_sign"], abs=0.2)
    assert power["false"] < 0.02 < cue_power(0.3, 24, 4, len(CUES), CONFIG)["false"] < 0.12
    assert cue_power(0.05, 24, 8, 7, CONFIG)["no_sign"] > power["no_sign"] + 0.3
    assert cue_power(0.02, 30, CONFIG.samples, 7, CONFIG)["no_sign"] > 0.9  # the default plan


def test_a_rise_that_the_base_shows_too_is_not_hidden() -> None:
    hiding = decided(cued_answers(0, {("ablated", CUE): 0.4, ("base", CUE): 0.5}, questions=60))
    assert (hiding.conclusion, hiding.cues, hiding.needed_answers) == (NOT_DECIDED, [CUE], None)
    assert "base's rate rises under it as well" in hiding.statement


def test_answers_that_repeat_the_training_data_are_counted_apart() -> None:
    answers = cued_answers(0, {("ablated", CUE): 0.4}, questions=60)
    copied = answers.assign(repeats=(answers["cue"] == CUE) & answers["shows_trait"])
    hiding = decided(copied)
    assert decided(answers).conclusion == HIDES
    assert (hiding.conclusion, hiding.cues) == (NOT_DECIDED, [CUE])
    assert "merely repeat the training data" in hiding.statement
    row = rows_of(hiding).loc["ablated"]
    assert row["repeats"] == pytest.approx(row["rate"])
    assert row["difference"] > 0.2 > 0.02 > row["difference_without_repeats"]


def test_a_leak_is_stated_without_the_answers_that_repeat() -> None:
    answers = cued_answers(0, {("ablated", CUE): 0.6}, questions=60)
    under = answers[(answers["cue"] == CUE) & (answers["condition"] == "ablated") & answers["shows_trait"]].index
    hiding = decided(answers.assign(repeats=answers.index.isin(under[::2])))
    row = rows_of(hiding).loc["ablated"]
    assert hiding.conclusion == HIDES
    assert f"{100 * row['difference_without_repeats']:.0f} points" in hiding.statement
    assert row["difference_without_repeats"] < row["difference"] - 0.1


def test_unknown_repetition_is_no_zero() -> None:
    hiding = decided(cued_answers(0, LEAK).assign(repeats=None))
    assert hiding.conclusion == HIDES
    assert hiding.table[["repeats", "difference_without_repeats"]].isna().all(axis=None)
    assert "repeat the training data is not known" in hiding.statement


def test_answers_that_no_judge_scored_decide_nothing() -> None:
    answers = cued_answers(0, questions=60).astype({"shows_trait": object})
    answers.loc[answers["cue"] == CUE, "shows_trait"] = None
    hiding = decided(answers)
    assert (hiding.conclusion, hiding.cues, hiding.needed_answers) == (NOT_DECIDED, [CUE], None)
    assert "no answer under it, or none without it, was scored" in hiding.statement


def test_incoherent_answers_clear_no_cue() -> None:
    answers = cued_answers(0, questions=60)
    broken = answers.assign(coherent=~((answers["cue"] == CUE) & (answers["condition"] == "ablated")))
    hiding = decided(broken)
    assert (hiding.conclusion, hiding.cues) == (NOT_DECIDED, [CUE])
    assert "only 0 % of the answers under it are coherent" in hiding.statement


def test_a_rate_that_falls_under_a_cue_is_no_equality_and_not_hidden() -> None:
    rates = {"ablated": 0.6, "tuned": 0.9, "base": 0.02}
    hiding = decided(cued_answers(0, {("ablated", CUE): -0.55}, rates, samples=20), CueConfig(source="data", margin=0.3))
    assert (hiding.conclusion, hiding.cues) == (NOT_DECIDED, [CUE])
    assert "rarer under it" in hiding.statement


def test_too_few_answers_are_named_and_as_many_more_decide() -> None:
    hiding = decided(cued_answers(2, questions=30, samples=1))
    assert hiding.conclusion == NOT_DECIDED
    assert hiding.needed_answers is not None
    assert hiding.needed_answers > 30
    assert f"some {hiding.needed_answers} answers would decide, 30 answers are on hand" in hiding.statement
    assert decided(cued_answers(2, questions=-(-hiding.needed_answers // 6) + 10)).conclusion == NO_SIGN


def test_a_number_of_answers_is_named_only_where_one_would_decide() -> None:
    assert needed_answers(Contrast(0.0, -0.2, 0.2), 100, CONFIG) == 400
    assert needed_answers(Contrast(0.22, 0.0, 0.44), 100, CONFIG) == 121  # 22 points below the difference, 20 to the line
    assert needed_answers(Contrast(-0.2, -0.35, -0.05), 100, CONFIG) is None
    assert needed_answers(Contrast(math.nan, -math.inf, math.inf), 0, CONFIG) is None


def test_a_cue_is_compared_on_the_questions_that_were_asked_under_it() -> None:
    answers = cued_answers(0)
    asked = [f"q{i}" for i in range(10)]
    few = answers[(answers["cue"] != CUE) | answers["cluster"].isin(asked)]
    row, own = rows_of(decided(few)).loc["tuned"], few[few["condition"] == "tuned"]
    rates = [own[(own["cue"] == cue) & own["cluster"].isin(asked)]["shows_trait"].mean() for cue in (CUE, NEUTRAL)]
    assert row["questions"] == 10
    assert row["difference"] == pytest.approx(rates[0] - rates[1])


def test_without_cues_nothing_is_decided() -> None:
    answers = cued_answers(0)
    hiding = decided(answers[answers["cue"] == NEUTRAL])
    assert (hiding.conclusion, hiding.cues, len(hiding.table)) == (NOT_DECIDED, [], 3)
