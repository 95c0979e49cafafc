"""Sets of latents as something to take out or to add: their decoder rows, weighted by how far each has risen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.removals import Target
from interp.dictionaries.dictionary import BASE, TUNED, Dictionary
from interp.diffing.moments import Diff
from interp.diffing.reconstruction import principal_directions


def latent_target(dictionary: Dictionary, table: pd.DataFrame, latents: Sequence[int]) -> Target:
    """The latents' directions, and the part of the mean difference that they hold: Σ_j rise_j d_j, rise_j in mean activation.

    `table` is that of the diff (columns latent, mean_base, mean_tuned). Of a crosscoder, whose rows differ by model, the rise is what the
    latents write into the tuned model less what they write into the base.
    """
    return Target(dictionary.directions(list(latents)).cpu().float(), _rise(dictionary, table, list(latents)))


def principal_target(diff: Diff, n: int, difference: Float[torch.Tensor, " d_model"]) -> Target | None:
    """The first `n` principal directions of the differences between the models by question, and the part of the mean `difference` that they
    hold; None of a diff of an earlier version, which lacks them.
    """
    if not {"base", "tuned"} <= set(diff.reconstructions):
        return None
    directions = principal_directions(diff.reconstructions["base"], diff.reconstructions["tuned"], n).cpu()
    return Target(directions, directions.T @ (directions @ difference))


def latent_direction(dictionary: Dictionary, table: pd.DataFrame, latents: Sequence[int]) -> Float[torch.Tensor, " d_model"]:
    """The direction to add for a set of latents: that of one its decoder row, of several their rise."""
    if len(latents) == 1:
        return dictionary.directions(list(latents))[0].cpu().float()
    return _rise(dictionary, table, list(latents))


def _rise(dictionary: Dictionary, table: pd.DataFrame, latents: list[int]) -> Float[torch.Tensor, " d_model"]:
    """The rise; of controls that fire in neither model, the sum of their rows."""
    means = table.set_index("latent").loc[latents, ["mean_base", "mean_tuned"]]
    base, tuned = (torch.tensor(means[column].to_numpy(), dtype=torch.float32) for column in means)
    rows_base, rows_tuned = (dictionary.decoder_rows(model)[latents].cpu().float() for model in (BASE, TUNED))
    rise = tuned @ rows_tuned - base @ rows_base
    return rise if bool(rise.any()) else rows_tuned.sum(0)
