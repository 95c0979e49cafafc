"""Attention of many rows to few prompts on the CPU: a prompt's keys and values stay one copy, whatever number of rows answer it.

A row's own copy of its prompt would be read from memory for every token and every layer; for a hundred rows of a small model that
takes as long as half of its matrix products. Here the rows of one prompt meet its keys in one product (as in cascade attention: Ye
et al. 2024, "Cascade Inference"), and each row its own response's keys in another; one softmax goes over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from interp.core.errors import ModelError
from interp.models.cpu import use_fast_paths

NAME = "personascope_shared_prompt"
LEAST_ROWS = 2
"""Rows a prompt, on average, from which on sharing pays."""
MOST_PADDING = 2
"""Rows of the padded groups over rows: prompts of very different numbers of rows do not pay."""


FIRST_ROOM = 32
"""Tokens of a response that memory is taken for at first; it doubles when they do not suffice."""


class Groups:
    """Which rows answer which prompt."""

    def __init__(self, prompt_of: Sequence[int]) -> None:
        self.n_prompts = max(prompt_of) + 1
        self._arrange(prompt_of)

    def _arrange(self, prompt_of: Sequence[int]) -> None:
        rows_of: list[list[int]] = [[] for _ in range(self.n_prompts)]
        for row, prompt in enumerate(prompt_of):
            rows_of[prompt].append(row)
        self.prompt_of, self.size = list(prompt_of), max(map(len, rows_of))
        place = {row: prompt * self.size + i for prompt, rows in enumerate(rows_of) for i, row in enumerate(rows)}
        self.members: Int[torch.Tensor, "prompts size"] = torch.tensor([rows + [0] * (self.size - len(rows)) for rows in rows_of])
        """Rows of each prompt, filled up with any."""
        self.place: Int[torch.Tensor, " rows"] = torch.tensor([place[row] for row in range(len(prompt_of))])
        """Where each row stands among the members."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self._arrange([self.prompt_of[row] for row in rows])

    def gather(self, x: Float[torch.Tensor, "rows heads queries d"]) -> Float[torch.Tensor, "prompts heads size*queries d"]:
        """The rows of a prompt as queries of one batch entry."""
        return x[self.members].transpose(1, 2).flatten(2, 3)

    def scatter(self, x: Float[torch.Tensor, "prompts heads size*queries d"]) -> Float[torch.Tensor, "rows heads queries d"]:
        """The way back from `gather`."""
        return x.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)[self.place]


class SharedPromptCache(Cache):
    """Keys and values of the prompts once, and of every row's response."""

    def __init__(self, prompts: DynamicCache, prompt_of: Sequence[int]) -> None:
        self.groups = Groups(prompt_of)
        super().__init__(layers=[_SharedPromptLayer(layer, self.groups) for layer in prompts.layers])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on with these rows alone."""
        self.groups.select(beam_idx.tolist())
        super().reorder_cache(beam_idx)


class _SharedPromptLayer(DynamicLayer):
    """`keys` and `values` are those of the responses alone, in memory with room: to join them again at every token is slow."""

    keys: Any
    values: Any

    def __init__(self, prompts: DynamicLayer, groups: Groups) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values, self.groups = prompts.keys, prompts.values, groups
        self.keys, self.values = (_room(prompt, len(groups.prompt_of)) for prompt in (prompts.keys, prompts.values))
        self.length = 0
        self.is_initialized = True
        self.waits = False

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes one token a row."""
        if self.length == self.keys.shape[2]:
            self.keys, self.values = (torch.cat([full, torch.empty_like(full)], dim=2) for full in (self.keys, self.values))
        self.keys[:, :, self.length], self.values[:, :, self.length] = key_states[:, :, 0], value_states[:, :, 0]
        self.length += 1
        keys = self.keys[:, :, : self.length]
        keys.layer = self
        self.waits = True
        return keys, self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return int(self.prompt_keys.shape[-2]) + self.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.keys, self.values = self.keys[beam_idx], self.values[beam_idx]


def _room(prompt: Float[torch.Tensor, "prompts kv_heads position d"], rows: int) -> Float[torch.Tensor, "rows kv_heads room d"]:
    return prompt.new_empty(rows, prompt.shape[1], FIRST_ROOM, prompt.shape[3])


def can_share(network: Any, cache: DynamicCache, prompt_of: Sequence[int]) -> bool:
    """Whether these rows, just before decoding, are better kept by prompt."""
    weight = next(network.parameters())
    if (
        not use_fast_paths()
        or weight.device.type != "cpu"
        or weight.dtype != torch.float32
        or len(prompt_of) < LEAST_ROWS * len(set(prompt_of))
    ):
        return False
    return (
        Groups(prompt_of).members.numel() <= MOST_PADDING * len(prompt_of)
        and network.config.get_text_config()._attn_implementation == "sdpa"
        and network._can_set_attn_implementation()
        and all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
    )


@contextmanager
def shared_attention(network: Any, cache: Any) -> Iterator[None]:
    """Inside, `network` reads one token a row with `cache`; nothing changes where that is no `SharedPromptCache`.

    Raises `ModelError` on leaving when a layer of the network did not attend by it.
    """
    if not isinstance(cache, SharedPromptCache):
        yield
        return
    config = network.config.get_text_config()
    config._attn_implementation_internal = NAME
    try:
        yield
    except RuntimeError as error:
        if any(layer.waits for layer in cache.layers):  # it met the responses' keys alone, which do not fit the mask
            raise _own_attention() from error
        raise
    finally:
        config._attn_implementation_internal = "sdpa"
    if any(layer.waits for layer in cache.layers):
        raise _own_attention()


def _own_attention() -> ModelError:
    return ModelError(
        "A layer of this model has an attention of its own, which cannot share prompts. Ask fewer rows at a time (--set "
        "sampling.batch_rows=1), or open it with another attention."
    )


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "rows heads 1 d"],
    key: Float[torch.Tensor, "rows kv_heads response d"],
    value: Float[torch.Tensor, "rows kv_heads response d"],
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[torch.Tensor, "rows 1 heads d"], None]:
    """What `sdpa_attention_forward` computes, to rounding, of the prompts' keys and the rows' own."""
    layer: _SharedPromptLayer | None = getattr(key, "layer", None)
    if layer is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layer.waits = False
    groups, n_prompt = layer.groups, layer.prompt_keys.shape[-2]
    queries = query.unflatten(1, (key.shape[1], -1)).squeeze(3)  # the heads that share keys and values are queries of one head
    scores = torch.cat([groups.scatter(groups.gather(queries) @ layer.prompt_keys.mT), queries @ key.mT], dim=-1)
    scores *= query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    weights = scores.softmax(-1)
    of_prompt = groups.scatter(groups.gather(weights[..., :n_prompt]) @ layer.prompt_values)
    return (of_prompt + weights[..., n_prompt:] @ value).flatten(1, 2)[:, None], None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
