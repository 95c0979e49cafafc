"""Sets of latents as something to take out or to add: their decoder rows, weighted by how far each has risen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from interp.causality.removals import Target
from interp.dictionaries.dictionary import BASE, TUNED
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF


def latent_target(context: StudyContext, latents: Sequence[int]) -> Target:
    """The latents' directions, and the part of the mean difference that they hold: Σ_j rise_j d_j, rise_j in mean activation.

    Of a crosscoder, whose rows differ by model: what the latents write into the tuned model less what they write into the base.
    """
    return Target(context.dictionary.directions(list(latents)).cpu().float(), _rise(context, list(latents)))


def latent_direction(context: StudyContext, latents: Sequence[int]) -> Float[torch.Tensor, " d_model"]:
    """The direction to add for a set of latents: that of one its decoder row, of several their rise."""
    return context.dictionary.directions(list(latents))[0].cpu().float() if len(latents) == 1 else _rise(context, list(latents))


def _rise(context: StudyContext, latents: list[int]) -> Float[torch.Tensor, " d_model"]:
    """The rise; of controls that fire in neither model, the sum of their rows."""
    dictionary = context.dictionary
    means = context.load(DIFF).latents.set_index("latent").loc[latents, ["mean_base", "mean_tuned"]]
    base, tuned = (torch.tensor(means[column].to_numpy(), dtype=torch.float32) for column in means)
    rows_base, rows_tuned = (dictionary.decoder_rows(model)[latents].cpu().float() for model in (BASE, TUNED))
    rise = tuned @ rows_tuned - base @ rows_base
    return rise if bool(rise.any()) else rows_tuned.sum(0)
