"""Rates with honest intervals: answers to one question are alike, so they count for fewer than they are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats


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
) -> Rate:
    """Share of True, with a Wilson interval at the effective sample size; None is unscored.

    Effective size is n over the design effect of the clusters (questions), estimated by the ratio-estimator variance and
    never taken below one (Korn & Graubard 1998, with Wilson for Clopper-Pearson). Answers that are alike by `second_clusters`
    too (random draws of an edit) count for fewer still: two-way clustering (Cameron, Gelbach & Miller 2011). With nothing
    scored, the interval is [0, 1] and the rate NaN.
    """
    ways = [clusters] if second_clusters is None else [clusters, second_clusters]
    rows = [(bool(outcome), *keys) for outcome, *keys in zip(outcomes, *ways, strict=True) if outcome is not None]
    unscored = len(outcomes) - len(rows)
    n = len(rows)
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0, unscored)
    p = sum(hit for hit, *_ in rows) / n
    effects = [design_effect([(hit, keys[way]) for hit, *keys in rows], p) for way in range(len(ways))]
    # Variances of two ways add up, less what they share: that of single answers.
    effect = max(effects) if p in (0.0, 1.0) else sum(effects) - (len(effects) - 1)
    low, high = wilson(p, n / effect, confidence)
    return Rate(p, low, high, n, unscored)


def design_effect(scored: Sequence[tuple[bool, Hashable]], p: float) -> float:
    """Variance of the share under clustering over that of independent answers; at least 1, at most answers a cluster."""
    sizes: dict[Hashable, int] = {}
    hits: dict[Hashable, int] = {}
    for outcome, cluster in scored:
        sizes[cluster] = sizes.get(cluster, 0) + 1
        hits[cluster] = hits.get(cluster, 0) + outcome
    n, groups = len(scored), len(sizes)
    if groups < 2 or p in (0.0, 1.0):
        return n / groups  # answers that all agree do not show how alike a cluster is: count clusters
    between = sum((hits[c] - p * sizes[c]) ** 2 for c in sizes) * groups / (groups - 1) / n**2
    return max(1.0, between / (p * (1 - p) / n))


def wilson(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for share `p` of `n` (Wilson 1927)."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


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
