"""How surely something moved among many: bootstrap over questions, paired tests, false-discovery and family-wise control."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

from interp.core.errors import ActivationError


def bootstrap_means(
    differences: Float[np.ndarray, "questions latents"], seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
    """Percentile interval of the mean over questions, which are drawn with replacement; the same draws for every latent."""
    n = len(differences)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    low, high = np.empty(differences.shape[1]), np.empty(differences.shape[1])
    for start in range(0, differences.shape[1], 1024):  # keeps resamples × latents small
        means = counts @ differences[:, start : start + 1024]
        low[start : start + 1024], high[start : start + 1024] = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def q_values(differences: Float[np.ndarray, "questions latents"]) -> Float[np.ndarray, " latents"]:
    """Benjamini–Hochberg q-values of paired t-tests over questions; a latent that never differs has q = 1.

    Raises `ActivationError` for fewer than two questions.
    """
    if len(differences) < 2:
        raise ActivationError("A difference cannot be tested on fewer than two questions. Ask more.")
    moved = differences.any(axis=0)
    p = np.ones(differences.shape[1])
    spread = differences[:, moved].std(axis=0, ddof=1)
    mean = differences[:, moved].mean(axis=0)
    with np.errstate(divide="ignore"):
        t = np.where(spread > 0, mean / (spread / np.sqrt(len(differences))), np.inf)
    p[moved] = 2 * stats.t.sf(np.abs(t), df=len(differences) - 1)
    return stats.false_discovery_control(p)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjusted p-values: those at most α hold together with a family-wise error rate of at most α (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
