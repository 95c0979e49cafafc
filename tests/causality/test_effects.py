"""Effects are paired by question, and ranks count the random draws that do as much."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.effects import cohens_h, paired_effect, rank_test
from tests.helpers.graded import graded

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)


def test_an_effect_is_paired_by_question_and_ignores_what_only_one_answered() -> None:
    questions = [f"q{i}" for i in range(20)]
    ours = graded(dict.fromkeys(questions, 0.9) | {"extra": 0.0})
    theirs = graded({q: 0.9 if i < 5 else 0.1 for i, q in enumerate(questions)})
    effect = paired_effect(ours, theirs, seed=0)
    assert effect is not None
    assert effect.difference == pytest.approx(0.75)
    assert effect.questions == 20
    assert 0.5 < effect.low < 0.75 < effect.high < 1
    assert effect.p < 0.001
    assert effect.cohens_h == pytest.approx(math.pi - 2 * math.asin(0.5))
    assert paired_effect(ours, graded({"q0": 0.9}), seed=0) is None


def test_an_effect_against_draws_that_differ_is_as_sure_as_they_are_many() -> None:
    rng, covered = np.random.default_rng(0), []
    questions = [f"q{i:02}" for i in range(24)]
    for world in range(100):
        draws = [graded(dict.fromkeys(questions[draw % 4 :: 4], float(rng.random() < 0.7)), draw=draw + 1) for draw in range(16)]
        effect = paired_effect(graded(dict.fromkeys(questions, 0.0)), pd.concat(draws), world)
        assert effect is not None
        covered.append(effect.low <= -0.7 <= effect.high)
    assert sum(covered) >= 90  # 45 when questions alone are drawn anew


def test_cohens_h_is_antisymmetric_and_largest_between_none_and_all() -> None:
    assert cohens_h(1, 0) == pytest.approx(math.pi)
    assert cohens_h(0.2, 0.7) == -cohens_h(0.7, 0.2)
    assert cohens_h(0.6, 0.5) == pytest.approx(0.2013579)  # 2 asin √0.6 - π / 2


@SAMPLED
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_ranks_count_the_draws_that_do_as_much(draws: list[float], ours: float) -> None:
    treated = graded(dict.fromkeys(("a", "b"), ours))
    each = {str(i): graded(dict.fromkeys(("a", "b"), value)) for i, value in enumerate(draws)}
    less, more = rank_test(treated, each, "less"), rank_test(treated, each, "more")
    assert less.at_least_as_strong == sum(value <= ours for value in draws)
    assert more.at_least_as_strong == sum(value >= ours for value in draws)
    assert less.p == (1 + less.at_least_as_strong) / (1 + len(draws))


def test_a_draw_is_compared_on_its_own_questions() -> None:
    treated = graded({"easy": 0.1, "hard": 0.8})
    assert rank_test(treated, {"1": graded({"hard": 0.9})}, "less").at_least_as_strong == 0  # though 0.9 is above the mean of both
    assert rank_test(treated, {"1": graded({"easy": 0.05})}, "less").at_least_as_strong == 1
    assert rank_test(treated, {"1": graded({"easy": math.nan})}, "less").at_least_as_strong == 1  # nothing scored proves nothing


def test_ranks_of_an_arbitrary_direction_are_uniform() -> None:
    """A direction that is itself one of the random ones gets p ≤ 0.05 in no more than 5 % of cases."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        values = rng.beta(0.3, 2, 33)
        each = {str(i): graded({"q": value}) for i, value in enumerate(values[1:])}
        found += rank_test(graded({"q": values[0]}), each, "more").p <= 0.05
    assert found <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95)
