"""Networks around given tensors, and the check that none of a network's tensors is missing."""

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
