"""Which of several layers the job goes on at: the candidates' figures, and the rule that chooses among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from interp.core.artifacts import Artifact
from interp.diffing.moments import load_diff
from interp.diffing.reconstruction import BASE, TUNED
from interp.models.hook_points import resid_post

LAYERS = "layers"
RULE = (
    "Of the layers whose dictionary is fit (no doubt by the limits of `fit`), the one at which the answers of the two models are farthest "
    "apart along their mean difference; where no dictionary is fit, the one that reconstructs the largest share of the mean difference. "
    "Of equals the first."
)
FIGURES = ("fvu_base", "fvu_tuned", "share_of_mean_difference", "share_of_paired_difference")


@dataclass(frozen=True)
class LayerChoice(Artifact):
    """The layer that was chosen, on selection questions alone, and what it was chosen from."""

    layers: pd.DataFrame
    """A row for each candidate: `layer`, `FIGURES`, `doubts` (how many limits of `fit` its dictionary misses), `separation`, `chosen`."""
    choice: dict[str, Any]
    """`layer`, `hook_point`, `rule`."""


def layer_choice(candidates: Mapping[int, tuple[Mapping[str, Any], Path]]) -> LayerChoice:
    """The choice among layers, each with what the step `fit` says of its dictionary, and the moments that the step `diff` saved."""
    rows = []
    for layer, (fit, moments) in candidates.items():
        texts = load_diff(moments)[0].reconstructions
        apart = separation(texts["base"].question_means(BASE), texts["tuned"].question_means(TUNED))
        rows.append({"layer": layer, **{name: fit[name] for name in FIGURES}, "doubts": len(fit["doubts"]), "separation": apart})
    table = pd.DataFrame(rows)
    chosen = choose_layer(table)
    return LayerChoice(table.assign(chosen=table["layer"] == chosen), {"layer": chosen, "hook_point": resid_post(chosen), "rule": RULE})


def choose_layer(table: pd.DataFrame) -> int:
    """The layer that `RULE` chooses from a table with the columns layer, doubts, share_of_mean_difference, separation."""
    fit = table[table["doubts"] == 0]
    known = table if fit.empty else fit
    figure = known["share_of_mean_difference" if fit.empty else "separation"].astype(float).fillna(-math.inf)
    return int(known.loc[figure == figure.max(), "layer"].min())


def separation(base: Float[torch.Tensor, "questions d_model"], tuned: Float[torch.Tensor, "questions d_model"]) -> float:
    """How far apart two models' mean residuals over their answers to the same questions lie along their mean difference: Cohen's d.

    Cross-fitted: the difference is that of every other question, the d that of the questions between, and the mean over both ways is
    taken, so that a difference which is chance alone has a d around 0. NaN with fewer than two answered questions a half.
    """
    answered = (base.isfinite() & tuned.isfinite()).all(-1)
    base, tuned = base[answered], tuned[answered]
    found = []
    for half in (0, 1):
        difference = (tuned[1 - half :: 2] - base[1 - half :: 2]).mean(0)
        ours, theirs = (rows[half::2] @ difference for rows in (tuned, base))
        spread = ((ours.var() + theirs.var()) / 2).sqrt() if min(len(ours), len(theirs)) > 1 else torch.tensor(math.nan)
        found.append(float((ours.mean() - theirs.mean()) / spread))
    return sum(found) / len(found)
