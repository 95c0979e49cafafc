"""What an encoder returns: the active latents of every token, and nothing for the others.

Memory grows with the number of active latents, not with the busiest token: a JumpReLU dictionary lets some tokens light up
thousands of latents, and a table padded to that width would be mostly zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class SparseCodes:
    """Active latents, token after token: token t owns entries `starts[t]` to `starts[t + 1]` of the flat lists."""

    flat_values: Float[torch.Tensor, " entries"]
    flat_indices: Int[torch.Tensor, " entries"]
    starts: Int[torch.Tensor, " tokens_and_1"]
    width: int | None = None
    """Entries of every token where all have equally many (TopK; entries of value 0 are then latents that are off)."""

    @classmethod
    def of_rows(cls, values: Float[torch.Tensor, "tokens k"], indices: Int[torch.Tensor, "tokens k"]) -> SparseCodes:
        """Equally many entries a token; an entry of value 0 means that the latent is off."""
        tokens, width = values.shape
        starts = torch.arange(tokens + 1, device=values.device) * width
        return cls(values.reshape(-1), indices.reshape(-1), starts, width)

    @classmethod
    def joined(cls, parts: Sequence[SparseCodes]) -> SparseCodes:
        """The tokens of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        ends, before = [], 0
        for part in parts:
            ends.append(part.starts[1:] + before)
            before += len(part.flat_values)
        widths = {part.width for part in parts}
        return cls(
            torch.cat([part.flat_values for part in parts]),
            torch.cat([part.flat_indices for part in parts]),
            torch.cat([parts[0].starts[:1], *ends]),
            widths.pop() if len(widths) == 1 else None,
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> Int[torch.Tensor, " entries"]:
        """The token that each entry belongs to."""
        rows = torch.arange(len(self), device=self.starts.device)
        return rows.repeat_interleave(self.starts.diff(), output_size=len(self.flat_values))

    @property
    def values(self) -> Float[torch.Tensor, "tokens k"]:
        """A table of the values, padded with 0 to the busiest token: memory grows with it unless all are equally wide."""
        return self._table(self.flat_values)

    @property
    def indices(self) -> Int[torch.Tensor, "tokens k"]:
        """The table that goes with `values`, padded with 0."""
        return self._table(self.flat_indices)

    def _table(self, flat: torch.Tensor) -> torch.Tensor:
        if self.width is not None:
            return flat.view(len(self), self.width)
        width = int(self.starts.diff().max()) if len(self) else 0
        rows = self.tokens
        table = flat.new_zeros(len(self), max(1, width))
        table[rows, torch.arange(len(flat), device=flat.device) - self.starts[rows]] = flat
        return table

    def column(self, latent: int) -> Float[torch.Tensor, " tokens"]:
        """Activation of one latent at every token."""
        here = self.flat_indices == latent
        return self.flat_values.new_zeros(len(self)).index_add_(0, self.tokens[here], self.flat_values[here])

    def sums(self, n_latents: int) -> Float[torch.Tensor, " latents"]:
        """Sum of each latent's activation over all tokens, in float64."""
        return torch.zeros(n_latents, dtype=torch.float64).index_add_(0, self.flat_indices.cpu(), self.flat_values.double().cpu())

    def counts(self, n_latents: int) -> Int[torch.Tensor, " latents"]:
        """Number of tokens at which each latent fires."""
        return torch.bincount(self.flat_indices[self.flat_values > 0].cpu(), minlength=n_latents)

    def weighted_rows(self, table: Float[torch.Tensor, "latents width"]) -> Float[torch.Tensor, "tokens width"]:
        """Sum of the table's rows at each token's latents, weighted by their activations: decoding without the bias."""
        bag = torch.nn.functional.embedding_bag
        if self.width is not None:  # equal bags need no offsets, and are faster
            return bag(self.indices, table, per_sample_weights=self.values, mode="sum")
        return bag(self.flat_indices, table, self.starts, per_sample_weights=self.flat_values, mode="sum", include_last_offset=True)


def strongest(pre: Float[torch.Tensor, "tokens latents"], k: int) -> SparseCodes:
    """The k largest pre-activations of each token, rectified."""
    values, indices = pre.topk(k, dim=-1, sorted=False)
    return SparseCodes.of_rows(torch.relu(values), indices)


def entries(pre: Float[torch.Tensor, "tokens latents"], active: Bool[torch.Tensor, "tokens latents"]) -> SparseCodes:
    """`pre` where `active`."""
    tokens, indices = active.nonzero(as_tuple=True)
    return SparseCodes(pre[tokens, indices], indices, starts_of(tokens, len(pre)))


def starts_of(tokens: Int[torch.Tensor, " entries"], n_tokens: int) -> Int[torch.Tensor, " tokens_and_1"]:
    """Where each token's entries begin, from the sorted token of every entry."""
    counts = torch.bincount(tokens, minlength=n_tokens)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def tokens_a_chunk(n_latents: int) -> int:
    """Tokens to encode at a time: one dense table of their pre-activations takes at most 128 MiB in float32."""
    return max(1, min(4096, 2**25 // max(1, n_latents)))
