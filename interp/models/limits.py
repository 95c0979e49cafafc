"""What a network cannot do: read more tokens than it has positions for, read rows that are padded, give logits that are no numbers."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any

import torch

from interp.core.errors import ModelError, ModelWarning

POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings"}
"""What modules and buffers with a row for every position are called in transformers."""
UNLIMITED = 2**31
"""Tokens, where the config names no limit."""


def context_tokens(network: Any) -> int:
    """Tokens that it can read and write in all, as far as its config says."""
    return int(getattr(network.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED)


def has_position_table(network: Any) -> bool:
    """Whether positions are looked up in a table, which ends; rotary ones go on."""
    if getattr(network.config.get_text_config(), "rope_parameters", None):
        return False
    return any(name.rpartition(".")[2] in POSITION_TABLES for name, _ in chain(network.named_modules(), network.named_buffers()))


def check_length(network: Any, source: str, tokens: int) -> None:
    """Raise `ModelError` where a text of so many tokens does not fit into a table of positions.

    Warns (`ModelWarning`) where a network without such a table is used beyond the length that its config names.
    """
    limit = context_tokens(network)
    if tokens <= limit:
        return
    if has_position_table(network):
        raise ModelError(f"{source} has {limit} positions, and a text has {tokens} tokens. Shorten it, or ask for fewer tokens.")
    warnings.warn(
        f"{source} was made for texts of at most {limit} tokens, and longer ones are read or written: what it computes there may be wrong. "
        "Shorten them, or ask for fewer tokens.",
        ModelWarning,
        stacklevel=3,
    )


def check_room(network: Any, source: str, prompt_tokens: int, new_tokens: int) -> None:
    """Raise `ModelError` where answers of so many tokens have no room in a table of positions; the last one needs no place."""
    room = context_tokens(network) - prompt_tokens + 1
    if new_tokens > room and has_position_table(network):
        remedy = f"Ask for at most {room}" if room > 0 else "Shorten the prompt"
        limit = context_tokens(network)
        raise ModelError(f"{source} has {limit} positions: no room for {new_tokens} tokens after a prompt of {prompt_tokens}. {remedy}.")


@torch.inference_mode()
def check_padding(network: Any, source: str) -> None:
    """Raise `ModelError` for a recurrent network that takes padding for text: rows of different lengths could not be read together."""
    if not network._is_stateful:
        return
    device = next(network.parameters()).device
    ids = torch.arange(8, 16, device=device)[None]
    padded, mask = torch.cat([ids[:, :4], ids], dim=1), (torch.arange(12, device=device) >= 4)[None].long()
    plain = network(input_ids=ids, use_cache=False).logits[0, 0].float()
    read = network(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), use_cache=False)
    if not (read.logits[0, 4].float() - plain).abs().max() <= 0.1 * plain.abs().max():
        raise ModelError(
            f"{source} ({type(network).__name__} of transformers) takes padding for text, so its answers would depend on what else is in "
            "a batch. Use a model of another family."
        )


def no_numbers(source: str, dtype: torch.dtype) -> ModelError:
    """The error for logits that are NaN or infinite."""
    name = str(dtype).removeprefix("torch.")
    remedy = "Check its weights." if dtype == torch.float32 else "Open it with --dtype float32."
    return ModelError(f"{source} computes logits that are not finite (NaN or infinite) in {name}. {remedy}")
