"""How far scores and flags agree with labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata


def auroc(positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float | None:
    """Area under the ROC curve, the share of (positive, negative) pairs in order, ties counting half; NaN scores are left out.

    None where only one class is there.
    """
    known = ~np.isnan(score)
    ones, n = positive[known], int(known.sum())
    n_ones = int(ones.sum())
    if n_ones in (0, n):
        return None
    ranks = rankdata(score[known])
    return float((ranks[ones].sum() - n_ones * (n_ones + 1) / 2) / (n_ones * (n - n_ones)))


def cohen_kappa(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float | None:
    """Agreement beyond chance of two flags (Cohen 1960); None where chance alone agrees fully, or there is nothing."""
    a, b = first.astype(bool), second.astype(bool)
    if not len(a):
        return None
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return None if chance >= 1 else (float((a == b).mean()) - chance) / (1 - chance)
