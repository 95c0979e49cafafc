"""Contrasts of rates against published figures, closed forms and coverage in simulated worlds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from interp.stats.contrasts import contrast, question_correlation
from interp.stats.intervals import predictive_tail, wilson
from interp.stats.rates import Rate


def rate(hits: int, n: int) -> Rate:
    return Rate(hits / n, *wilson(hits / n, n), n, 0)


def test_a_difference_of_wilson_intervals_is_newcombes() -> None:
    """Newcombe 1998, Statistics in Medicine 17:873, table II, method 10."""
    for (first, second), ends in (((56, 70), (48, 80)), (0.0524, 0.3339)), (((9, 10), (3, 10)), (0.1705, 0.8090)):
        found = contrast((1, -1), (rate(*first), rate(*second)))
        assert (found.low, found.high) == pytest.approx(ends, abs=2e-4)


def test_weights_scale_and_signs_turn_the_interval() -> None:
    one, other = rate(3, 20), rate(12, 30)
    plain, double, turned = (contrast(weights, (one, other)) for weights in ((1, -1), (2, -2), (-1, 1)))
    assert (double.value, double.low, double.high) == pytest.approx((2 * plain.value, 2 * plain.low, 2 * plain.high))
    assert (turned.low, turned.high) == pytest.approx((-plain.high, -plain.low))
    alone = contrast((1,), (one,))
    assert (alone.value, alone.low, alone.high) == pytest.approx((one.rate, one.low, one.high))


def test_a_rate_of_nothing_leaves_everything_open() -> None:
    found = contrast((1, -1), (rate(5, 10), Rate(math.nan, 0.0, 1.0, 0, 3)))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_what_goes_together_makes_a_difference_surer_and_a_sum_less_sure() -> None:
    rates, together = (rate(20, 40), rate(24, 40)), np.array([[1.0, 0.7], [0.7, 1.0]])
    width = {(w, paired): (c := contrast(w, rates, together if paired else None)).high - c.low
             for w in ((1, -1), (1, 1)) for paired in (True, False)}  # fmt: skip
    assert width[(1, -1), True] < 0.6 * width[(1, -1), False]
    assert width[(1, 1), True] > 1.2 * width[(1, 1), False]


def test_correlations_are_by_question_and_none_over_few_questions() -> None:
    ids = [f"q{i}" for i in range(12)]
    rising = pd.Series(np.linspace(0, 1, 12), ids)
    found = question_correlation([rising, rising[::-1] / 2, 1 - rising, rising[:7], pd.Series(0.5, ids)])
    expected = np.eye(5)
    expected[:3, :3] = [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("likeness", [0.05, 0.4])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_equal_rates_of_the_same_questions_are_told_apart_in_no_more_than_their_share(p: float, likeness: float, shared: bool) -> None:
    """One-sided 2.5 %, whether both rates find the same questions hard or others; ten answers to each of 24 questions."""
    rng, size, told, trials = np.random.default_rng(0), 1 / likeness - 1, 0, 400
    effective = 240 / (1 + 9 * likeness)
    for _ in range(trials):
        own = rng.beta(p * size, (1 - p) * size, (2, 24))
        means = [pd.Series(rng.binomial(10, own[0 if shared else rate]) / 10) for rate in range(2)]
        rates = [Rate(float(m.mean()), *wilson(float(m.mean()), effective), 240, 0) for m in means]
        told += contrast((1, -1), rates, question_correlation(means)).low > 0
    assert told <= 0.025 * trials + 2 * math.sqrt(trials * 0.025 * 0.975)


@pytest.mark.parametrize(("count", "tail"), [(2, "less"), (40, "less"), (12, "more"), (44, "more")])
def test_clusters_that_are_alike_predict_as_a_binomial_does(count: int, tail: str) -> None:
    p = {"less": stats.binom.cdf(count, 50, 0.2), "more": stats.binom.sf(count - 1, 50, 0.2)}[tail]
    sizes = np.full(2000, 50)
    hits = stats.binom.ppf((np.arange(2000) + 0.5) / 2000, 50, 0.2).astype(int)
    assert predictive_tail(hits, sizes, count, 50, tail) == pytest.approx(p, abs=0.01)  # type: ignore[arg-type]


def test_few_clusters_predict_with_caution_and_the_tails_share_what_was_seen() -> None:
    few, many = (predictive_tail(np.full(n, 6), np.full(n, 10), 1, 10, "less") for n in (3, 60))
    assert few > 3 * many
    hits, sizes = np.array([1, 3, 0, 5]), np.array([6, 6, 6, 12])
    for count in range(1, 25):
        below, above = predictive_tail(hits, sizes, count - 1, 24, "less"), predictive_tail(hits, sizes, count, 24, "more")
        assert below + above == pytest.approx(1, abs=1e-6)
