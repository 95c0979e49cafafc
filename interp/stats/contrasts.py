"""Weighted sums of rates with intervals, from the intervals of the single rates and how they go together over questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.stats.rates import Rate

FEWEST_QUESTIONS = 8
"""Questions below which a correlation is not taken from them."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of rates with its 95 % interval."""

    value: float
    low: float
    high: float


def contrast(weights: Sequence[float], rates: Sequence[Rate], correlation: Float[np.ndarray, "rates rates"] | None = None) -> Contrast:
    """Σ weight · rate, by the method of variance estimates recovery (MOVER, Zou & Donner 2008); rates are independent by default.

    For the difference of two this is Newcombe's hybrid score interval, for paired rates as for independent ones (1998). It keeps what the
    single intervals know: their skewness near 0 and 1, and clusters. A rate of which nothing was scored leaves everything open.
    """
    weight, correlation = np.asarray(weights, dtype=float), np.eye(len(rates)) if correlation is None else correlation
    share, low, high = (np.array([getattr(rate, name) for rate in rates]) for name in ("rate", "low", "high"))
    if np.isnan(share).any():
        return Contrast(math.nan, -math.inf, math.inf)
    down, up = (weight * np.where(rises, share - low, high - share) for rises in (weight > 0, weight < 0))
    value = float(weight @ share)
    return Contrast(value, *(value + sign * math.sqrt(max(0.0, float(side @ correlation @ side))) for sign, side in ((-1, down), (1, up))))


def question_correlation(means: Sequence[pd.Series[float]]) -> Float[np.ndarray, "rates rates"]:
    """Correlations of rates that were measured on the same questions, from their means by question (a Series for each rate).

    None is taken from fewer than eight questions, or from means that are all alike.
    """
    found = pd.concat(list(means), axis=1).astype(float).corr(min_periods=FEWEST_QUESTIONS).fillna(0.0).to_numpy(copy=True)
    np.fill_diagonal(found, 1.0)
    return found
