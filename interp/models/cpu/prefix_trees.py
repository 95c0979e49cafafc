"""Chats as prefix trees in few rows, without padding: what several begin with is read once, and no chat sees another's tokens.

Sequence packing with the attention mask of a tree. A causal model computes the same for a common beginning (template, system prompt,
question) wherever it stands, and its gradient is the sum over the chats. Rows are short, for attention costs as
the square of their length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from interp.models.cpu import use_fast_paths
from interp.models.unembedding import Unembedding

ROW_TOKENS = 256
"""Length of a row, about."""


@dataclass(frozen=True)
class PackedChats:
    """Rows of equal length; a shorter tree is filled up with tokens that nobody sees."""

    ids: Int[torch.Tensor, "row position"]
    position_ids: Int[torch.Tensor, "row position"]
    """Index of each token within its chats."""
    attention_mask: Float[torch.Tensor, "row 1 position position"]
    """Added to attention scores: 0 where a token sees another, the most negative number elsewhere."""
    places: list[Int[torch.Tensor, " token"]]
    """Of each chat: where its tokens stand among all of the flattened rows."""

    def unpack(
        self, x: Float[torch.Tensor, "row position d"], mask: Bool[torch.Tensor, "batch column"]
    ) -> Float[torch.Tensor, "batch column d"]:
        """What belongs to each token, at the chats' places in a padded batch with this mask; anything at padding."""
        place = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        place[mask] = torch.cat(self.places)
        return x.flatten(0, 1)[place]


@dataclass
class _Tree:
    """Token ids with the index of the token before each; -1 before the first of a chat."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    known: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, ids: Sequence[int]) -> list[int]:
        """Where the tokens of a chat stand."""
        columns, node = [], -1
        for position, token in enumerate(ids):
            if (node, token) not in self.known:
                self.known[node, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(node)
                self.positions.append(position)
            node = self.known[node, token]
            columns.append(node)
        return columns


def can_pack_chats(network: Any) -> bool:
    """Whether it is on a CPU, and all layers attend to whatever the mask shows them: no recurrence, no sliding window, no own attention."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return (
        use_fast_paths()
        and next(network.parameters()).device.type == "cpu"
        and network.config.get_text_config()._attn_implementation in ("sdpa", "eager")
        and network._can_set_attn_implementation()
        and not network._is_stateful
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=network.config).layers)
    )


def pack_chats(chats: Sequence[Sequence[int]], network: nn.Module) -> PackedChats:
    """Chats (token ids) in rows for `network`, neighbours together."""
    weight = next(network.parameters())
    whole = _Tree()
    for ids in chats:
        whole.add(ids)
    n_rows = max(1, -(-len(whole.ids) // ROW_TOKENS))
    trees, columns = [_Tree()], []
    for ids in chats:
        if len(trees) < n_rows and len(trees[-1].ids) >= len(whole.ids) / n_rows:
            trees.append(_Tree())
        columns.append((len(trees) - 1, trees[-1].add(ids)))
    width = max(len(tree.ids) for tree in trees)
    ids, positions = torch.zeros(2, len(trees), width, dtype=torch.long)
    visible = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)], positions[row, : len(tree.ids)] = torch.tensor(tree.ids), torch.tensor(tree.positions)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                visible[row, node] |= visible[row, parent]
    mask = torch.zeros(visible.shape, dtype=weight.dtype).masked_fill(~visible, torch.finfo(weight.dtype).min)[:, None]
    places = [(row * width + torch.tensor(own, dtype=torch.long)).to(weight.device) for row, own in columns]
    return PackedChats(ids.to(weight.device), positions.to(weight.device), mask.to(weight.device), places)


def run_packed(network: Any, chats: PackedChats, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Unembedding:
    """One forward pass, up to the last hidden states."""
    inputs = {"input_ids": chats.ids, "attention_mask": chats.attention_mask, "position_ids": chats.position_ids, "use_cache": False}
    return Unembedding(network, inputs, around)
