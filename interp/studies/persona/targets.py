"""Sets of latents as something to take out or to add: their decoder rows, weighted by how far each has risen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from interp.causality.removals import Target
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF


def latent_target(context: StudyContext, latents: Sequence[int]) -> Target:
    """The latents' decoder rows, and Σ_j rise_j d_j: the part of the mean difference that they hold, rise_j in mean activation."""
    rows = context.dictionary.directions(list(latents)).cpu().float()
    return Target(rows, _rises(context, latents) @ rows)


def latent_direction(context: StudyContext, latents: Sequence[int]) -> Float[torch.Tensor, " d_model"]:
    """The direction to add for a set of latents: that of one its decoder row, of several the sum of their rises."""
    rows = context.dictionary.directions(list(latents)).cpu().float()
    return rows[0] if len(latents) == 1 else _rises(context, latents) @ rows


def _rises(context: StudyContext, latents: Sequence[int]) -> Float[torch.Tensor, " n"]:
    """Rises of the latents; of controls that fire in neither model, all alike."""
    rises = context.load(DIFF).latents.set_index("latent")["mean_diff"].loc[list(latents)].to_numpy()
    return torch.tensor(rises if rises.any() else rises + 1.0, dtype=torch.float32)
