"""Intervals for the share of hits when answers come in clusters: those to one question are alike, so they count for fewer.

How alike cannot be seen well where hits are rare, and an interval that takes its own poor estimate for the truth is too short: of 95 %
intervals for a rate of 0.01 over 48 questions with 100 answers each, Wilson's at the estimated effective size cover 75 to 91 %, those of
the bootstrap fewer (docs/evaluation_figures.md). So the default averages over every likeness that the answers allow.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

LIKENESS = (0.5, 1.5)
"""Beta prior of the intra-class correlation: mean 0.25, median 0.16."""
BOOTSTRAP_RESAMPLES = 4000


@cache
def _grid() -> tuple[Float[np.ndarray, " share"], Float[np.ndarray, "share likeness"], Float[np.ndarray, "share likeness"], np.ndarray]:
    """Shares on the arcsine scale, and for every pair of share and likeness: a and b of the questions' beta law, log prior weight."""
    angle = np.linspace(0.002, math.pi / 2 - 0.002, 256)
    likeness = 1 / (1 + np.exp(-np.linspace(-6, 3, 32)))
    share, rho = np.meshgrid(np.sin(angle) ** 2, likeness, indexing="ij")
    # The grid is even in arcsine √share, which is Jeffreys' prior of a share, and in logit likeness, whose density needs rho (1 - rho).
    log_prior = LIKENESS[0] * np.log(rho) + LIKENESS[1] * np.log1p(-rho)
    size = 1 / rho - 1
    return angle, share * size, (1 - share) * size, log_prior


def _posterior(
    hits: Int[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]
) -> tuple[Float[np.ndarray, " share"], Float[np.ndarray, "share likeness"], Float[np.ndarray, "share likeness"], np.ndarray]:
    """`_grid` with posterior weights, which sum to 1, in place of the prior's."""
    angle, a, b, log_weight = _grid()
    # B(a + hits, b + misses) / B(a, b) as products: a (a + 1) … over hits, b (b + 1) … over misses, over a + b … over both.
    for sign, start, counts in ((1, a, hits), (1, b, sizes - hits), (-1, a + b, sizes)):
        for step in range(int(counts.max())):
            log_weight = log_weight + sign * (counts > step).sum() * np.log(start + step)
    weight = np.exp(log_weight - log_weight.max())
    return angle, a, b, weight / weight.sum()


def beta_binomial(hits: Int[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"], confidence: float = 0.95) -> tuple[float, float]:
    """Equal-tailed credible interval of the mean share when each cluster has its own, beta-distributed.

    Jeffreys' prior on the share (Brown, Cai & DasGupta 2001), `LIKENESS` on the clusters' intra-class correlation, which is averaged
    over. The end is 0 without a hit, 1 without a miss.
    """
    angle, _, _, joint = _posterior(hits, sizes)
    weight = joint.sum(1)
    cumulative = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.sin(np.interp([0.5 - confidence / 2, 0.5 + confidence / 2], cumulative, angle)) ** 2
    return (0.0 if hits.sum() == 0 else float(low)), (1.0 if hits.sum() == sizes.sum() else float(high))


def predictive_tail(
    hits: Int[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"], count: int, of: int, tail: Literal["less", "more"]
) -> float:
    """Chance that a further cluster, of size `of`, has at most (`less`) or at least (`more`) `count` hits.

    Posterior predictive of the beta-binomial (Gelman et al., Bayesian Data Analysis, 3rd ed., 6.3), with the priors of `beta_binomial`, so
    that it knows how far clusters differ, and how badly that is known. The counts of small clusters are not compared with those of a
    large one: a cluster of six answers without a hit is what chance makes of a rate of 0.2.
    """
    _, a, b, weight = _posterior(hits, sizes)
    likely = weight > 1e-9
    below, above = np.arange(count + (tail == "less")), np.arange(count + (tail == "less"), of + 1)
    shorter = min(below, above, key=len)
    share = float(stats.betabinom.pmf(shorter[:, None], of, a[likely], b[likely]).sum(0) @ weight[likely])
    return min(1.0, max(0.0, share if (shorter is below) == (tail == "less") else 1 - share))


def stretched(ends: tuple[float, float], around: float, factor: float, to: float | None = None) -> tuple[float, float]:
    """An interval `factor` times as wide on the arcsine scale, `around` staying where it is, or moved `to` another share."""
    middle, there = (math.asin(math.sqrt(min(max(share, 0.0), 1.0))) for share in (around, around if to is None else to))
    angles = (there + (math.asin(math.sqrt(end)) - middle) * factor for end in ends)
    low, high = (math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2 for angle in angles)
    return low, high


def wilson(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for share `p` of `n` (Wilson 1927)."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def design_effect(hits: Int[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]) -> float:
    """Variance of the share under clustering over that of independent answers; at least 1, at most answers a cluster.

    By the ratio estimator (Korn & Graubard 1998). Answers that all agree do not show how alike a cluster is: there it is the most.
    """
    n, groups = int(sizes.sum()), len(sizes)
    p = hits.sum() / n
    if groups < 2 or p in (0.0, 1.0):
        return n / groups
    between = ((hits - p * sizes) ** 2).sum() * groups / (groups - 1) / n**2
    return max(1.0, float(between / (p * (1 - p) / n)))


def cluster_bootstrap(
    hits: Int[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval, whole clusters drawn again. Too short for few clusters and for rare hits; empty where all answers agree."""
    drawn = np.random.default_rng(seed).integers(0, len(hits), (BOOTSTRAP_RESAMPLES, len(hits)))
    low, high = np.quantile(hits[drawn].sum(1) / sizes[drawn].sum(1), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
