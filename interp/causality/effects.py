"""How large an effect is and how surely it is one: paired over questions, and among single random draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from interp.evaluation.rates import cluster_column, question_means
from interp.stats.intervals import predictive_tail
from interp.stats.rates import paired_difference


@dataclass(frozen=True)
class Effect:
    """A difference of trait rates, treated minus control, paired by question."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided sign-flip permutation over questions."""
    cohens_h: float
    """2 asin √p₁ - 2 asin √p₂ (Cohen 1988); 0.8 and more is called large."""
    questions: int


@dataclass(frozen=True)
class DrawTest:
    """A direction among random ones."""

    p: float
    """Chance that one more random direction, asked what the direction was asked, does at least as much (`predictive_tail`)."""
    draws: int
    """Random directions with a scored answer."""


def paired_effect(treated: pd.DataFrame, control: pd.DataFrame, seed: int) -> Effect | None:
    """Effect over the questions that both answered; None where they share fewer than two.

    The interval counts answers of one draw of the control as alike, the permutation takes the draws as they are.
    """
    ours, theirs = question_means(treated), question_means(control)
    shared = ours.index.intersection(theirs.index)
    if len(shared) < 2:
        return None
    ours, theirs = ours[shared], theirs[shared]
    found = paired_difference(ours.to_numpy(), theirs.to_numpy(), seed)
    if "replicate" in control and control["replicate"].nunique() > 1:
        found["low"], found["high"] = _over_draws(ours, control, seed)
    return Effect(**found, cohens_h=cohens_h(ours.mean(), theirs.mean()), questions=len(shared))


def _over_draws(ours: pd.Series[float], control: pd.DataFrame, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Percentile interval of the mean difference, questions and draws both drawn again (pigeonhole bootstrap, Owen 2007)."""
    scored = control.dropna(subset=["shows_trait"]).astype({"shows_trait": float})
    cells = scored.groupby(["replicate", cluster_column(control)])["shows_trait"]
    hits, counts = (
        table.unstack(fill_value=0).reindex(columns=ours.index, fill_value=0.0).to_numpy(dtype=float)
        for table in (cells.sum(), cells.count())
    )
    generator = np.random.default_rng(seed)
    n_draws, n = hits.shape
    draws = generator.multinomial(n_draws, np.full(n_draws, 1 / n_draws), size=resamples)
    questions = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    asked = draws @ counts
    weights = np.where(asked > 0, questions, 0)  # a question that none of these draws was asked says nothing
    differences = ours.to_numpy() - np.divide(draws @ hits, asked, out=np.zeros_like(asked, dtype=float), where=asked > 0)
    low, high = np.quantile((weights * differences).sum(1) / np.maximum(weights.sum(1), 1), [0.025, 0.975])
    return float(low), float(high)


def cohens_h(first: float, second: float) -> float:
    """Difference of two shares on the arcsine scale."""
    return 2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second))


def draw_test(treated: pd.DataFrame, control: pd.DataFrame, stronger: Literal["less", "more"]) -> DrawTest:
    """Whether the treated model is beyond what single random draws do; `stronger` says whether showing less or more of the trait is.

    The draws' rates are taken for a sample from a beta law, so a draw that was asked little, and shows nothing as the treated model does,
    counts for as little as it says. A rank among the draws would call it a tie, and pooled answers would forget that draws differ; the
    false-positive rates and the power of all of them are in docs/rules.md. Without a scored answer on both sides p is 1.
    """
    ours = treated["shows_trait"].dropna().astype(bool)
    theirs = control.dropna(subset=["shows_trait"]).astype({"shows_trait": bool}).groupby("replicate")["shows_trait"]
    hits, sizes = theirs.sum().to_numpy(dtype=int), theirs.size().to_numpy(dtype=int)
    if not len(ours) or not len(sizes):
        return DrawTest(1.0, len(sizes))
    return DrawTest(predictive_tail(hits, sizes, int(ours.sum()), len(ours), stronger), len(sizes))
