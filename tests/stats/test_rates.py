"""Rates and their intervals, against scipy, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp.stats.intervals import beta_binomial, cluster_bootstrap, design_effect, wilson
from interp.stats.rates import clustered_rate, paired_difference

SAMPLED = settings(deadline=None, derandomize=True, max_examples=200)
answers = st.lists(st.tuples(st.sampled_from([True, False, None]), st.integers(0, 5)), max_size=60)


@SAMPLED
@given(n=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(n: int, share: float, confidence: float) -> None:
    hits = round(share * n)
    true = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert wilson(hits / n, n, confidence) == pytest.approx((true.low, true.high), abs=1e-9)


@SAMPLED
@given(n=st.floats(0.5, 500), p=st.floats(0, 1))
def test_wilson_ends_solve_the_score_equation(n: float, p: float) -> None:
    """The ends are the shares q with |p - q| = z · sqrt(q (1 - q) / n), also for an n that is not whole."""
    low, high = wilson(p, n)
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1
    z = stats.norm.ppf(0.975)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9)


@SAMPLED
@given(answers, st.sampled_from(["beta_binomial", "wilson", "bootstrap"]))
def test_a_clustered_rate_counts_everything_and_holds_its_share(rows: list[tuple[bool | None, int]], interval) -> None:
    outcomes, clusters = [o for o, _ in rows], [c for _, c in rows]
    rate = clustered_rate(outcomes, clusters, interval=interval)
    scored = [o for o in outcomes if o is not None]
    assert rate.n == len(scored)
    assert rate.unscored == outcomes.count(None)
    if not scored:
        assert math.isnan(rate.rate)
        assert (rate.low, rate.high) == (0.0, 1.0)
        return
    assert rate.rate == pytest.approx(sum(scored) / len(scored))
    assert 0 <= rate.low <= rate.rate <= rate.high <= 1


@SAMPLED
@given(answers)
def test_wilson_at_the_effective_size_is_no_surer_than_independent_answers(rows: list[tuple[bool | None, int]]) -> None:
    rate = clustered_rate([o for o, _ in rows], [c for _, c in rows], interval="wilson")
    if rate.n:
        low, high = wilson(rate.rate, rate.n)
        assert rate.low <= low + 1e-12
        assert rate.high >= high - 1e-12


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 24), (12, 24), (7, 100), (100, 100)])
def test_one_answer_a_question_gives_jeffreys_interval(hits: int, n: int) -> None:
    """Nothing is alike then, so the prior of likeness has no part: the closed form of Brown, Cai & DasGupta 2001."""
    found = beta_binomial(np.array([1] * hits + [0] * (n - hits)), np.ones(n, dtype=int))
    true = stats.beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
    true = (0.0 if hits == 0 else true[0], 1.0 if hits == n else true[1])
    assert found == pytest.approx(true, abs=0.002)


def test_the_interval_equals_the_posterior_summed_by_brute_force() -> None:
    """Every question's share and likeness drawn from the prior, weighed by the binomial likelihood."""
    hits, sizes = np.array([0, 3, 1, 0]), np.array([4, 4, 2, 3])
    rng = np.random.default_rng(0)
    share, likeness = rng.beta(0.5, 0.5, 400_000), rng.beta(0.5, 1.5, 400_000)
    size = 1 / likeness - 1
    weight = np.ones_like(share)
    for hit, of in zip(hits, sizes, strict=True):
        weight *= stats.betabinom.pmf(hit, of, np.maximum(share * size, 1e-12), np.maximum((1 - share) * size, 1e-12))
    order = np.argsort(share)
    cumulative = np.cumsum(weight[order]) / weight.sum()
    true = share[order][np.searchsorted(cumulative, [0.025, 0.975])]
    assert beta_binomial(hits, sizes) == pytest.approx(true, abs=0.01)


def test_the_bootstrap_draws_whole_questions() -> None:
    hits, sizes = np.array([5, 0, 0, 0, 0, 0, 0, 5]), np.full(8, 5)
    low, high = cluster_bootstrap(hits, sizes)
    assert (low, high) == pytest.approx(stats.binom.ppf([0.025, 0.975], 8, 0.25) / 8, abs=0.02)
    assert (low, high) == cluster_bootstrap(hits, sizes)


@SAMPLED
@given(answers, st.randoms())
def test_neither_order_nor_names_nor_the_side_matter(rows: list[tuple[bool | None, int]], random) -> None:
    rate = clustered_rate([o for o, _ in rows], [c for _, c in rows])
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = clustered_rate([o for o, _ in shuffled], [f"question {c}" for _, c in shuffled])
    flipped = clustered_rate([None if o is None else not o for o, _ in rows], [c for _, c in rows])
    if rate.n:
        assert (again.rate, again.low, again.high) == pytest.approx((rate.rate, rate.low, rate.high), abs=1e-12)
        assert (flipped.rate, flipped.low, flipped.high) == pytest.approx((1 - rate.rate, 1 - rate.high, 1 - rate.low), abs=1e-12)


@pytest.mark.parametrize("samples", [2, 5, 20])
def test_answers_that_repeat_their_question_count_once(samples: int) -> None:
    """24 questions, each answered `samples` times alike, tell little more than 24 answers."""
    hits = [question < 9 for question in range(24)]
    repeated = clustered_rate([hit for hit in hits for _ in range(samples)], [q for q in range(24) for _ in range(samples)])
    once = clustered_rate(hits, list(range(24)))
    assert (repeated.n, once.n) == (24 * samples, 24)
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.12)
    assert design_effect(np.array([samples * hit for hit in hits]), np.full(24, samples)) == pytest.approx(samples * 24 / 23)


def test_answers_that_differ_within_questions_count_nearly_in_full() -> None:
    mixed = clustered_rate([True, False] * 24, [q for q in range(24) for _ in range(2)])
    free = clustered_rate([True, False] * 24, list(range(48)))
    assert mixed.high - mixed.low == pytest.approx(free.high - free.low, rel=0.08)


def test_one_question_says_little_however_often_it_is_answered() -> None:
    rate = clustered_rate([True] * 30, ["only"] * 30)
    assert rate.high == 1.0
    assert rate.low < 0.45
    more = clustered_rate([True] * 300, ["only"] * 300)
    assert more.low < 0.6


def test_unscored_answers_have_no_part_in_the_rate() -> None:
    with_gaps = clustered_rate([True, None, False, None, True], [0, 0, 1, 2, 3])
    without = clustered_rate([True, False, True], [0, 1, 3])
    assert (with_gaps.rate, with_gaps.low, with_gaps.high, with_gaps.n) == (without.rate, without.low, without.high, 3)
    assert (with_gaps.unscored, without.unscored) == (2, 0)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        clustered_rate([True, False], [0])


@pytest.mark.parametrize(
    ("share", "alike", "questions", "samples"),
    [
        (0.5, 0.0, 24, 2),
        (0.1, 0.3, 24, 2),
        (0.3, 0.6, 24, 2),
        (0.03, 0.6, 24, 2),
        (0.01, 0.2, 48, 20),
        (0.2, 0.2, 48, 20),
        (0.2, 0.2, 8, 50),
    ],
)
def test_intervals_cover_the_true_rate_of_clustered_answers(share: float, alike: float, questions: int, samples: int) -> None:
    """400 worlds, each question's own rate beta-distributed with intra-class correlation `alike`; a standard error is 1.1 points.

    `benchmarks/intervals.py` measures it on 2,000 worlds a line, beside Wilson's interval, the bootstrap and an oracle.
    """
    rng = np.random.default_rng(1)
    size, covered, naive = np.full(questions, samples), 0, 0
    for _ in range(400):
        own = rng.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, questions) if alike else np.full(questions, share)
        hits = rng.binomial(samples, own)
        low, high = beta_binomial(hits, size)
        covered += low <= share <= high
        low, high = wilson(hits.sum() / size.sum(), size.sum())
        naive += low <= share <= high
    assert covered / 400 >= 0.91
    assert naive <= covered + 12
    if alike and samples >= 20:
        assert naive / 400 <= 0.85


def exact_sign_flip_p(difference: np.ndarray) -> float:
    """Share of all sign patterns whose mean is at least as far from zero."""
    means = [abs(np.dot(signs, difference)) for signs in itertools.product([1, -1], repeat=len(difference))]
    return float(np.mean(np.array(means) >= abs(difference.sum()) - 1e-9))


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_p_equals_the_exhaustive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    found = paired_difference(first, second, seed, resamples=20_000)["p"]
    assert found == pytest.approx(exact_sign_flip_p(first - second), abs=0.015)


def test_the_bootstrap_interval_is_about_that_of_the_t_distribution() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 1, 200), rng.normal(0.5, 1, 200)
    found = paired_difference(first, second, 0)
    true = stats.ttest_rel(first, second).confidence_interval()
    assert found["difference"] == pytest.approx(np.mean(first - second))
    assert (found["low"], found["high"]) == pytest.approx((true.low, true.high), abs=0.02)


def test_p_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(3)
    found = np.array([paired_difference(rng.normal(size=24), rng.normal(size=24), seed, 1000)["p"] for seed in range(500)])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.2):
        assert (found <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 500)


def test_p_keeps_its_level_on_shares_of_few_answers() -> None:
    """Question means are multiples of a half, with many ties: the test may be too careful, never too bold."""
    rng = np.random.default_rng(4)
    found = np.array([paired_difference(*rng.binomial(2, 0.3, (2, 24)) / 2, seed, 1000)["p"] for seed in range(500)])
    assert (found <= 0.05).mean() <= 0.08


def test_a_shift_is_detected_with_its_sign() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(0, 0.3, 24), rng.normal(0.8, 0.3, 24)
    down, up = paired_difference(first, second, 0), paired_difference(second, first, 0)
    assert down["high"] < 0 < up["low"]
    assert down["difference"] == pytest.approx(-up["difference"])
    assert down["p"] == up["p"] < 0.001


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30), st.integers(0, 2**32))
def test_p_is_never_zero_and_a_seed_repeats(pairs: list[tuple[int, int]], seed: int) -> None:
    first, second = np.array(pairs, dtype=float).T / 4
    found = paired_difference(first, second, seed, resamples=200)
    assert found == paired_difference(first, second, seed, resamples=200)
    assert 1 / 201 <= found["p"] <= 1
    assert found["low"] <= found["difference"] + 1e-12
    assert found["difference"] - 1e-12 <= found["high"]
    if np.array_equal(first, second):
        assert (found["p"], found["low"], found["high"]) == (1.0, 0.0, 0.0)


def test_the_smallest_p_is_one_over_all_arrangements_that_were_looked_at() -> None:
    found = paired_difference(np.ones(40), np.zeros(40), 0, resamples=500)
    assert (found["difference"], found["low"], found["high"]) == (1.0, 1.0, 1.0)
    assert found["p"] == pytest.approx(1 / 501)


def test_answers_alike_by_draw_count_for_fewer_and_unlike_ones_as_before() -> None:
    questions = [q for _ in range(8) for q in range(12)]
    draws = [d for d in range(8) for _ in range(12)]
    by_draw = [d < 2 for d in draws]  # two draws do it all, the others nothing
    alone = clustered_rate(by_draw, questions)
    both = clustered_rate(by_draw, questions, second_clusters=draws)
    assert alone.rate == both.rate == 0.25
    assert both.low < alone.low
    assert both.high > alone.high
    assert both.high - both.low == pytest.approx(np.subtract(*wilson(0.25, 8 * 7 / 8)[::-1]), rel=0.2)  # eight draws, not 96 answers
    exact = clustered_rate(by_draw, questions, second_clusters=draws, interval="wilson")
    assert exact.high - exact.low == pytest.approx(np.subtract(*wilson(0.25, 8 * 7 / 8)[::-1]), rel=0.02)
    mixed = [(q + d) % 4 == 0 for q, d in zip(questions, draws, strict=True)]
    rate = clustered_rate(mixed, questions, second_clusters=draws)
    assert (rate.low, rate.high) == (clustered_rate(mixed, questions).low, clustered_rate(mixed, questions).high)


@pytest.mark.slow
def test_two_way_intervals_cover_where_questions_and_draws_both_differ() -> None:
    rng = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for _ in range(400):
        by_question, by_draw = rng.normal(0, 0.7, 24), rng.normal(0, 0.7, 32)
        pairs = [(q, d) for d in range(32) for q in range(d % 4, 24, 4)]
        share = 1 / (1 + np.exp(-np.add.outer(rng.normal(0, 0.7, 400), rng.normal(0, 0.7, 400))))
        hits = [bool(rng.random() < 1 / (1 + np.exp(-by_question[q] - by_draw[d]))) for q, d in pairs]
        for two_way in covered:
            rate = clustered_rate(hits, [q for q, _ in pairs], second_clusters=[d for _, d in pairs] if two_way else None)
            covered[two_way] += rate.low <= share.mean() <= rate.high
    assert covered[True] / 400 >= 0.9
    assert covered[False] < covered[True]
