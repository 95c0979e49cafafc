"""A cheap judge on every answer and gold labels on some: the rate without the judge's bias, with an interval that knows both.

Prediction-powered inference (Angelopoulos et al. 2023, arXiv:2301.09633), power-tuned (PPI++, arXiv:2311.01453), with the variance
taken over questions, which the published estimators take for independent answers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from interp.core.errors import ConfigError
from interp.stats.intervals import beta_binomial, stretched
from interp.stats.rates import Rate

FEWEST_LABELS = 30


def prediction_powered_rate(
    judged: Sequence[bool | None], gold: Sequence[bool | None], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Rate:
    """Share of answers that are True by the gold labels, from the judge's word on all and the labels of some; `n` counts the labels,
    `unscored` what the judge left open.

    The labelled answers must be a random sample of all. Answers that the judge left unscored count as its majority's verdict: any
    guess is valid, a poor one only widens the interval. The interval is that of the labels alone (`beta_binomial`), moved to the
    estimate on the arcsine scale, and shorter by as much as the judge lowers the standard error.
    Raises `ConfigError` for fewer than 30 labels.
    """
    labelled = np.array([label is not None for label in gold])
    if labelled.sum() < FEWEST_LABELS:
        raise ConfigError(f"{labelled.sum()} answers have gold labels, at least {FEWEST_LABELS} are needed. Label more of them.")
    truth = np.array([bool(label) for label in gold], dtype=float)
    said = np.array([math.nan if verdict is None else float(verdict) for verdict in judged])
    said = np.where(np.isnan(said), float(np.nanmean(said) > 0.5) if np.isfinite(said).any() else 0.0, said)
    place = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    cluster = np.array([place[name] for name in clusters])

    p = float(truth[labelled].mean())
    tuned = power(truth, said, labelled)
    rest = said[~labelled].mean() if (~labelled).any() else 0.0
    estimate = float(p + tuned * (rest - said[labelled].mean())) if tuned else p
    alone, helped = (standard_error(truth, said, labelled, cluster, weight) for weight in (0.0, tuned))
    gain = min(1.0, helped / alone) if alone > 0 else 1.0
    groups = len(np.unique(cluster[labelled]))
    # The gain is an estimate too: Student's quantile in place of the normal one.
    gain *= float(stats.t.ppf(0.5 + confidence / 2, max(groups - 1, 1)) / stats.norm.ppf(0.5 + confidence / 2))

    hits = np.bincount(cluster[labelled], truth[labelled], len(place)).astype(int)
    sizes = np.bincount(cluster[labelled], minlength=len(place))
    low, high = stretched(beta_binomial(hits[sizes > 0], sizes[sizes > 0], confidence), p, gain, to=estimate)
    return Rate(min(max(estimate, 0.0), 1.0), low, high, int(labelled.sum()), sum(verdict is None for verdict in judged))


def power(truth: Float[np.ndarray, " answers"], said: Float[np.ndarray, " answers"], labelled: Bool[np.ndarray, " answers"]) -> float:
    """How far the judge is trusted, 0 (not at all: the labels alone) to 1 (PPI++, eq. 12 for a mean, clipped)."""
    n, rest = int(labelled.sum()), int((~labelled).sum())
    spread = float(np.var(said, ddof=1))
    if rest == 0 or spread == 0:
        return 0.0
    together = float(np.cov(truth[labelled], said[labelled])[0, 1])
    return min(max(together / ((1 + n / rest) * spread), 0.0), 1.0)


def standard_error(
    truth: Float[np.ndarray, " answers"],
    said: Float[np.ndarray, " answers"],
    labelled: Bool[np.ndarray, " answers"],
    cluster: np.ndarray,
    weight: float,
) -> float:
    """Of the estimate that trusts the judge by `weight`, over clusters, and never below that of independent answers."""
    influence = np.zeros(len(said))
    gap = truth[labelled] - weight * said[labelled]
    influence[labelled] = (gap - gap.mean()) / labelled.sum()
    if (~labelled).any():
        influence[~labelled] = weight * (said[~labelled] - said[~labelled].mean()) / (~labelled).sum()
    totals = np.bincount(cluster, influence)
    groups = len(np.unique(cluster))
    between = (totals**2).sum() * groups / max(groups - 1, 1)
    return math.sqrt(max(between, (influence**2).sum()))
