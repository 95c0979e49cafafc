"""Rates with honest intervals, and their differences paired by question."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.core.vocabulary import Interval
from interp.stats.intervals import beta_binomial, cluster_bootstrap, design_effect, stretched, wilson


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval and its denominator."""

    rate: float
    low: float
    high: float
    n: int
    """Answers that were scored."""
    unscored: int
    """Answers the judge could not score; no part of `n`."""


def clustered_rate(
    outcomes: Sequence[bool | None],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    second_clusters: Sequence[Hashable] | None = None,
    interval: Interval = "beta_binomial",
) -> Rate:
    """Share of True; None is unscored. Answers to one question (`clusters`) are alike, and the interval allows for it.

    Answers that are alike by `second_clusters` too (random draws of an edit) count for fewer still: the variances of both ways add up,
    less what they share (Cameron, Gelbach & Miller 2011); `bootstrap` knows one way only. With nothing scored, the interval is [0, 1]
    and the rate NaN.
    """
    ways = [clusters] if second_clusters is None else [clusters, second_clusters]
    rows = [(bool(outcome), *keys) for outcome, *keys in zip(outcomes, *ways, strict=True) if outcome is not None]
    unscored = len(outcomes) - len(rows)
    n = len(rows)
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0, unscored)
    counts = [_counts([(hit, keys[way]) for hit, *keys in rows]) for way in range(len(ways))]
    hits, sizes = counts[0]
    p = float(hits.sum() / n)
    effects = [design_effect(*counted) for counted in counts]
    effect = max(effects) if p in (0.0, 1.0) else sum(effects) - (len(effects) - 1)
    if interval == "bootstrap":
        low, high = cluster_bootstrap(hits, sizes, confidence)
    elif interval == "wilson":
        low, high = wilson(p, n / effect, confidence)
    else:
        low, high = stretched(beta_binomial(hits, sizes, confidence), p, math.sqrt(effect / effects[0]))
    return Rate(p, min(low, p), max(high, p), n, unscored)


def _counts(scored: Sequence[tuple[bool, Hashable]]) -> tuple[Int[np.ndarray, " clusters"], Int[np.ndarray, " clusters"]]:
    """Hits and answers of every cluster, in order of appearance."""
    hits: dict[Hashable, int] = {}
    sizes: dict[Hashable, int] = {}
    for outcome, cluster in scored:
        sizes[cluster] = sizes.get(cluster, 0) + 1
        hits[cluster] = hits.get(cluster, 0) + outcome
    return np.array(list(hits.values())), np.array(list(sizes.values()))


def paired_difference(
    first: Float[np.ndarray, " questions"], second: Float[np.ndarray, " questions"], seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """Mean of `first - second` over questions, bootstrap interval over questions, sign-flip permutation p (two-sided).

    The p-value counts the observed arrangement, so it is never zero (Phipson & Smyth 2010).
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    generator = np.random.default_rng(seed)
    n = len(difference)
    means = difference[generator.integers(0, n, (resamples, n))].mean(1)
    flipped = (difference * generator.choice([-1.0, 1.0], (resamples, n))).mean(1)
    extreme = int((np.abs(flipped) >= abs(difference.mean()) - 1e-12).sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high), "p": (extreme + 1) / (resamples + 1)}


def sign_flip_p(differences: Float[np.ndarray, " questions"], units: int = 840) -> float:
    """Exact two-sided p of the sign-flip test that the mean difference is 0 (Fisher 1935).

    For small p that are corrected for many tests, where permutations drawn at random, as in `paired_difference`, are too coarse.
    Differences are rounded to 1 / `units`, by default a multiple of all shares of up to eight answers.
    """
    steps = np.rint(np.asarray(differences, dtype=float) * units).astype(int)
    reach = int(np.abs(steps).sum())
    weights = np.zeros(2 * reach + 1)  # of every sum from -reach to reach
    weights[reach] = 1.0
    for step in np.abs(steps[steps != 0]):
        weights = (np.roll(weights, step) + np.roll(weights, -step)) / 2
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(int(steps.sum()))
    return min(1.0, float(weights[extreme].sum()))
