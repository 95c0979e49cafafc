"""Ranking metrics: which latents to test for being the cause. None is enough: the causal screen decides."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats

from interp.core.errors import ActivationError
from interp.dictionaries.dictionary import Dictionary
from interp.diffing.moments import Diff, Moments
from interp.stats.false_discovery import bootstrap_means, q_values

LATENTS_AT_A_TIME = 4096


class NoDifferenceWarning(UserWarning):
    """No latent differs at all between base and tuned model."""


@dataclass(frozen=True)
class RankingMetric:
    """A column of the table by which latents are ranked, and when it speaks for a latent."""

    column: str
    neutral: float
    """At this value the metric says nothing about a latent; below it, it speaks against the latent."""
    smallest: bool = False
    """Whether values nearest 0 come first, in place of the largest."""

    def score(self, table: pd.DataFrame) -> pd.Series[float]:
        """Larger speaks more for the latent, above 0 at all; what has no value comes last."""
        values = table[self.column]
        return (self.neutral - values.abs() if self.smallest else values - self.neutral).fillna(-np.inf)


RANKING_METRICS: Mapping[str, RankingMetric] = {
    "mean_diff": RankingMetric("mean_diff", 0.0),
    "cosine": RankingMetric("cosine_persona", 0.0),
    "attribution": RankingMetric("attribution", 0.0),
    "cosine_mean_difference": RankingMetric("cosine_mean_difference", 0.0),
    "effect": RankingMetric("effect", 0.0),
    "auroc": RankingMetric("auroc", 0.5),
    "beta": RankingMetric("beta_ratio", 1.0, smallest=True),
    "relative_norm": RankingMetric("relative_norm", 0.5),
}


def mean_differences(base: Moments, tuned: Moments) -> Float[np.ndarray, "questions latents"]:
    """Tuned minus base mean activation over the response phase, for each question (Wang et al. 2025, arXiv:2506.19823)."""
    return (tuned.question_means() - base.question_means()).cpu().numpy()


def standardised_effect(base: Moments, tuned: Moments) -> Float[np.ndarray, " latents"]:
    """Difference of the mean activation at a response token, in pooled standard deviations (Cohen 1988, d); 0 where nothing varies."""
    difference = (tuned.mean() - base.mean()).cpu().numpy()
    spread = ((tuned.variance() + base.variance()) / 2).sqrt().cpu().numpy()
    return np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)


def auroc(base: Moments, tuned: Moments) -> Float[np.ndarray, " latents"]:
    """Chance that a question's mean activation in the tuned model exceeds one in the base, ties counting half (Hanley & McNeil 1982)."""
    one, other = base.question_means().cpu().numpy(), tuned.question_means().cpu().numpy()
    n, found = len(one), np.empty(one.shape[1])
    for start in range(0, one.shape[1], LATENTS_AT_A_TIME):
        some = slice(start, start + LATENTS_AT_A_TIME)
        ranks = stats.rankdata(np.concatenate([one[:, some], other[:, some]]), axis=0)
        found[some] = (ranks[n:].sum(0) - n * (n + 1) / 2) / n**2  # Mann-Whitney's U
    return found


def cosine_with(w_dec: Float[torch.Tensor, "latents d_model"], direction: Float[torch.Tensor, " d_model"]) -> Float[np.ndarray, " latents"]:
    """Cosine of every decoder row with `direction`.

    With a persona vector: Chen et al. 2025, arXiv:2507.21509. With a difference of mean activations: Arditi et al. 2024,
    arXiv:2406.11717, there of two kinds of prompt, here of two models.
    """
    return torch.nn.functional.cosine_similarity(w_dec, direction[None].to(w_dec), dim=-1).double().cpu().numpy()


def beta_ratio(diff: Diff, pairing: str) -> Float[np.ndarray, " latents"]:
    """β of the base over β of the tuned model (Wright & Sharkey 2024; Minder et al. 2025, arXiv:2504.02922).

    About 0: the base holds nothing of the latent, it is new. About 1: both hold it alike, whatever sparsity made of it. NaN where
    the latent never fires in the tuned model, or where that model does not hold it either.
    """
    base, tuned = diff.beta(pairing).cpu().numpy()
    return np.divide(base, tuned, out=np.full_like(base, np.nan), where=tuned > 0)


def latent_table(
    diff: Diff,
    dictionary: Dictionary,
    seed: int,
    *,
    persona_vector: Float[torch.Tensor, " d_model"] | None = None,
    mean_difference: Float[torch.Tensor, " d_model"] | None = None,
    attribution: Float[torch.Tensor, " latents"] | None = None,
) -> pd.DataFrame:
    """All statistics of all latents, one row each, in order of latent; `rank_…` is 1 for the latent that the metric speaks most for.

    The plain columns are of the on-policy pairing; those of the others, and of a direction or an attribution, are there where these
    are. β is taken on the tuned model's answers, else on the base's. Raises `ActivationError` without the on-policy pairing, or for
    a question that one model did not answer. Warns `NoDifferenceWarning` when no latent moved at all; every q-value is 1 then.
    """
    if "on_policy" not in diff.pairings:
        raise ActivationError("The table compares each model on its own answers. Name on_policy among the pairings.")
    base, tuned = diff.pairing("on_policy")
    columns: dict[str, np.ndarray[Any, Any]] = {"latent": np.arange(dictionary.n_latents)}
    same_text = [name for name in diff.pairings if name != "on_policy"]
    for pairing in ("on_policy", *(same_text if dictionary.n_models == 1 else [])):  # a crosscoder has one code for both models
        differences = mean_differences(*diff.pairing(pairing))
        low, high = bootstrap_means(differences, seed)
        found = {"mean_diff": differences.mean(axis=0), "mean_diff_low": low, "mean_diff_high": high, "q_value": q_values(differences)}
        columns |= {name if pairing == "on_policy" else f"{name}_{pairing}": values for name, values in found.items()}
    if all(not values.any() for name, values in columns.items() if name.startswith("mean_diff")):
        same = "No latent differs between base and tuned: the models are the same, or the dictionary never fires."
        warnings.warn(same, NoDifferenceWarning, stacklevel=2)
    columns |= {f"{name}_{model}": values for model, own in (("base", base), ("tuned", tuned)) for name, values in _of_model(own).items()}
    columns |= {"effect": standardised_effect(base, tuned), "auroc": auroc(base, tuned)}
    if same_text:
        pairing = "tuned_text" if "tuned_text" in same_text else same_text[0]
        held = diff.beta(pairing).cpu().numpy()
        columns |= {"beta_base": held[0], "beta_tuned": held[1], "beta_ratio": beta_ratio(diff, pairing)}
        columns |= {"correlation": diff.correlation(pairing).cpu().numpy()}
    norms = dictionary.relative_norms()
    if norms is not None:
        columns["relative_norm"] = norms.double().cpu().numpy()  # Lindsey et al. 2024
    for name, direction in (("cosine_persona", persona_vector), ("cosine_mean_difference", mean_difference)):
        if direction is not None:
            columns[name] = cosine_with(dictionary.decoder_rows(), direction)
    if attribution is not None:
        columns["attribution"] = attribution.double().cpu().numpy()
    table = pd.DataFrame(columns)
    for name, metric in metrics_of(table).items():
        table[f"rank_{name}"] = metric.score(table).rank(ascending=False, method="first").astype(int)
    return table


def _of_model(moments: Moments) -> dict[str, np.ndarray[Any, Any]]:
    """One model's own columns: means are over questions, rate, deviation and peak over the response's tokens."""
    found = {
        "mean": moments.question_means().mean(0),
        "mean_prompt_end": moments.question_means("prompt_end").mean(0),
        "mean_prompt": moments.mean("prompt"),
        "rate": moments.rate(),
        "deviation": moments.variance().sqrt(),
        "peak": moments.peak().double(),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


def metrics_of(table: pd.DataFrame) -> dict[str, RankingMetric]:
    """The metrics whose column the table has."""
    return {name: metric for name, metric in RANKING_METRICS.items() if metric.column in table}


def ranking_agreement(table: pd.DataFrame, top: int = 20) -> pd.DataFrame:
    """How far each two metrics agree: Spearman's correlation, and the share of their first `top` in common; over latents that fire."""
    alive = table[(table["rate_base"] > 0) | (table["rate_tuned"] > 0)]
    scores = {name: metric.score(alive) for name, metric in metrics_of(table).items()}
    first = {name: set(score.nlargest(top).index) for name, score in scores.items()}
    return pd.DataFrame(
        [
            {
                "metric": one,
                "other": other,
                "spearman": scores[one].rank().corr(scores[other].rank()),
                "overlap": len(first[one] & first[other]) / max(1, min(top, len(alive))),
            }
            for one, other in combinations(scores, 2)
        ],
        columns=["metric", "other", "spearman", "overlap"],
    )
