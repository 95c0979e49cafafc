"""Attention sinks: the few positions, mostly the first token, whose residual is many times as long as all others (Sun et al. 2024,
"Massive Activations in Large Language Models"; Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks").

Attention parks on them what it has no use for. To edit one changes what every later token attends to, whatever the edit was meant for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float

from interp.models.chats import Role, TokenisedChat, batches_by_length, pad_left
from interp.models.cpu.prefix_trees import can_pack_chats, pack_chats
from interp.models.hook_points import attach

if TYPE_CHECKING:
    from interp.models.language_model import LanguageModel

SINK_RATIO = 4.0
"""Residual norm over the median of its chat from which on a position stands out at a layer."""
SINK_LAYERS = 1 / 3
"""Share of a model's layers at which a sink stands out. Common words may do so at a few early layers (commas after the first block of
Gemma 3 270M: 17 times the median; "the" after blocks 2 to 8 of 30 in SmolLM2: 10 times), a sink over most of the depth."""
ROWS = 32
"""Prompts read together."""


def sink_mask(
    norms: Float[torch.Tensor, "layer batch position"], mask: Bool[torch.Tensor, "batch position"], n_layers: int
) -> Bool[torch.Tensor, "batch position"]:
    """True at the sinks: at `SINK_LAYERS` of the model's `n_layers` the norm exceeds `SINK_RATIO` times the median of the row's tokens.

    All layers that were read speak for a position: a sink is one at those too where it stands out less.
    """
    real = norms.masked_fill(~mask, torch.nan)
    outstanding = real > SINK_RATIO * real.nanmedian(-1, keepdim=True).values
    return outstanding.sum(0) >= SINK_LAYERS * n_layers


@contextmanager
def recorded_norms(model: LanguageModel, layers: int) -> Iterator[list[Float[torch.Tensor, "batch position"]]]:
    """A list that gets the residual norms after each of the first `layers` blocks, in order, as the model runs."""
    norms: list[torch.Tensor] = []
    acting = model.hooks_act

    def record(residual: torch.Tensor) -> None:
        if model.positions is not None and model.hooks_act == acting:  # not while another model runs, or sinks are looked for
            norms.append(residual.float().norm(dim=-1))

    with ExitStack() as hooks:
        for block in model.blocks[:layers]:
            hooks.enter_context(attach(block, "hook_resid_post", record, owner=model))
        yield norms


@torch.inference_mode()
def find_sinks(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Positions of the sinks of each prompt (token ids) in the model as it is, without what is attached to it; over all layers."""
    positions: list[tuple[int, ...]] = [()] * len(prompts)
    packs = can_pack_chats(model.network)
    filled = [i for i, ids in enumerate(prompts) if ids]
    for places in batches_by_length([len(prompts[i]) for i in filled], ROWS):
        indices = [filled[place] for place in places]
        own = [list(prompts[i]) for i in indices]
        batch = pad_left([TokenisedChat(ids, [int(Role.TEMPLATE)] * len(ids), len(ids)) for ids in own], model.pad_id).to(model.device)
        with model.unhooked(), recorded_norms(model, model.n_layers) as norms:
            if packs:
                packed = pack_chats(own, model.network)
                model.run_packed(packed)
                norms = [packed.unpack(layer[..., None], batch.mask)[..., 0] for layer in norms]
            else:
                model.run_batch(batch)
        for index, row, mask in zip(indices, sink_mask(torch.stack(norms), batch.mask, model.n_layers), batch.mask, strict=True):
            positions[index] = tuple(row[mask].nonzero()[:, 0].tolist())
    return positions
