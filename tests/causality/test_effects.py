"""Effects are paired by question, and ranks count the random draws that do as much."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.effects import cohens_h, draw_test, paired_effect
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


def shows(hits: int, of: int, draw: int = 0) -> pd.DataFrame:
    return graded({f"q{i}": float(i < hits) for i in range(of)}, draw=draw)


@settings(SAMPLED, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(6, 24)), min_size=1, max_size=20), st.integers(0, 24))
def test_the_two_tails_share_only_what_was_seen(draws: list[tuple[int, int]], hits: int) -> None:
    control = pd.concat([shows(*draw, draw=number + 1) for number, draw in enumerate(draws)])
    less, more = (draw_test(shows(hits, 24), control, side).p for side in ("less", "more"))
    assert less + more >= 1 - 1e-6
    if hits:
        assert draw_test(shows(hits - 1, 24), control, "less").p <= less + 1e-9
        assert draw_test(shows(hits - 1, 24), control, "less").p + more == pytest.approx(1, abs=1e-4)


def test_a_draw_without_a_hit_says_little_when_it_was_asked_little() -> None:
    """Rate 0.3 of everything, nothing of the treated: the eight short draws that show nothing by chance do not count against it."""
    full = [shows(7, 24, draw) for draw in range(1, 5)]
    short = [shows(0 if draw % 3 == 0 else 2 + draw % 2, 6, draw) for draw in range(5, 33)]
    test = draw_test(shows(0, 48), pd.concat([*full, *short]), "less")
    assert test.draws == 32
    assert test.p < 0.02


def test_draws_that_were_asked_everything_and_show_as_much_count() -> None:
    draws = [shows(24 if draw % 4 == 0 else 1, 24, draw) for draw in range(1, 33)]
    assert 0.1 < draw_test(shows(24, 24), pd.concat(draws), "more").p < 0.35  # a quarter of the directions bring it all


def test_nothing_scored_proves_nothing() -> None:
    unscored = graded({"q": 1.0}, draw=1).assign(shows_trait=None)
    assert draw_test(shows(0, 24), unscored, "less").p == 1
    assert draw_test(unscored, shows(6, 6, 1), "less").p == 1


@pytest.mark.parametrize(("mean", "spread"), [(0.9, 1e-3), (0.9, 0.3), (0.3, 0.1), (0.1, 0.3)])
def test_an_arbitrary_direction_is_seldom_beyond_the_others(mean: float, spread: float) -> None:
    """A direction that is itself a random one gets p ≤ 0.05 in hardly more than 5 % of cases, however much directions differ."""
    rng, found, size = np.random.default_rng(0), 0, 1 / spread - 1
    for _ in range(120):
        rates = rng.beta(mean * size, (1 - mean) * size, 33)
        control = pd.concat([shows(rng.binomial(asked, rate), asked, draw + 1) for draw, (rate, asked) in enumerate(
            zip(rates[1:], [24] * 4 + [6] * 28, strict=True))])  # fmt: skip
        found += draw_test(shows(rng.binomial(48, rates[0]), 48), control, "less").p <= 0.05
    assert found <= 0.05 * 120 + 2 * math.sqrt(120 * 0.05 * 0.95)
