"""Networks around given tensors, embeddings of more or fewer tokens, and the check that none of a network's tensors is missing."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from interp.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_none_missing(missing: Collection[str], source: object) -> None:
    """Raise `ModelError` where weights are missing: transformers would continue with random numbers in their place."""
    if missing:
        names = f"{min(missing)}{', …' if len(missing) > 1 else ''}"
        raise ModelError(f"The model '{source}' lacks {len(missing)} weights ({names}). Download it again, or fix its config.json.")


def with_weights(network: PreTrainedModel, config: Any, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A network of the same class by `config` around the tensors of `state`; biases that it has and `state` lacks are zero."""
    with torch.device("meta"):
        fresh = type(network)(config)
    for key, empty in fresh.state_dict().items():
        if key.endswith(".bias") and key not in state:
            state[key] = torch.zeros(empty.shape, dtype=network.dtype, device=network.device)
    fresh.load_state_dict(state, assign=True)
    fresh.tie_weights()
    fresh.generation_config = copy.deepcopy(network.generation_config)
    return fresh


@torch.no_grad()
def resize_embeddings(network: PreTrainedModel, rows: int) -> None:
    """Give input and output embeddings `rows` rows, in place; each new one is the mean of those that were there."""
    before = int(network.get_input_embeddings().weight.shape[0])
    if rows == before:
        return
    network.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
        for tensor in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if isinstance(tensor, torch.Tensor):
                tensor[before:] = tensor[:before].float().mean(0).to(tensor.dtype)
