"""Codes: which latents are active at which token, and how strongly, as a matrix in compressed sparse rows (CSR).

The one type of everything that encodes, trains, decodes or diffs. Memory follows the active latents, not the busiest token: a
JumpReLU dictionary lets some tokens activate thousands of latents, and a table padded to that width would be mostly zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class ByLatent:
    """The entries of `Codes` in the order of their latents, tokens ascending within one (compressed columns)."""

    order: Int[torch.Tensor, " entries"]
    """Index of each entry in the codes, int64."""
    starts: Int[torch.Tensor, " latents_plus_1"]
    """Where each latent's entries begin in `order`, int64; the last is the number of entries."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Latent activations [tokens, latents] in CSR: token t has entries `row_starts[t]` to `row_starts[t + 1]`.

    Gradients flow through `values`. An entry may have value 0 (TopK rectifies what it chose): such a latent is off.
    """

    values: Float[torch.Tensor, " entries"]
    latents: Int[torch.Tensor, " entries"]
    """Latent of each entry (the column index), int32."""
    row_starts: Int[torch.Tensor, " tokens_plus_1"]
    """Where each token's entries begin, int64; the last is the number of entries."""
    n_latents: int
    _pattern: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was worked out from the places alone, shared by all codes at the same places."""

    @classmethod
    def joined(cls, parts: Sequence[Codes]) -> Codes:
        """The tokens of all parts, in order."""
        values, latents = (torch.cat(side) for side in zip(*((part.values, part.latents) for part in parts), strict=True))
        counts = torch.cat([part.row_starts.diff() for part in parts])
        return cls(values, latents, row_starts_of(counts), parts[0].n_latents)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.row_starts) - 1

    @property
    def tokens(self) -> Int[torch.Tensor, " entries"]:
        """Token of each entry, int64."""
        if "tokens" not in self._pattern:
            rows = torch.arange(self.n_tokens, device=self.row_starts.device)
            self._pattern["tokens"] = torch.repeat_interleave(rows, self.row_starts.diff(), output_size=len(self.latents))
        tokens: torch.Tensor = self._pattern["tokens"]
        return tokens

    def by_latent(self, sort: Callable[[Codes], ByLatent]) -> ByLatent:
        """The entries by latent, sorted once: both weight gradients walk them so."""
        if "by_latent" not in self._pattern:
            self._pattern["by_latent"] = sort(self)
        order: ByLatent = self._pattern["by_latent"]
        return order

    def with_values(self, values: Float[torch.Tensor, " entries"]) -> Codes:
        """Other values at the same places."""
        return replace(self, values=values)

    def keep(self, chosen: Bool[torch.Tensor, " entries"]) -> Codes:
        """Only the chosen entries."""
        n_before = row_starts_of(chosen.long())
        places = chosen.nonzero()[:, 0]
        return Codes(self.values[places], self.latents[places], n_before[self.row_starts], self.n_latents)

    def of_tokens(self, first: int, last: int) -> Codes:
        """The tokens from `first` to before `last`."""
        begin, end = self.row_starts[torch.tensor([first, last])].tolist()
        return Codes(self.values[begin:end], self.latents[begin:end], self.row_starts[first : last + 1] - begin, self.n_latents)

    def column(self, latent: int) -> Float[torch.Tensor, " tokens"]:
        """Activation of one latent at every token."""
        here = self.latents == latent
        return self.values.new_zeros(self.n_tokens).index_add_(0, self.tokens[here], self.values[here])

    def dense(self) -> Float[torch.Tensor, "tokens latents"]:
        """As a dense matrix, for small and explicit uses."""
        empty = torch.zeros(self.n_tokens, self.n_latents, dtype=self.values.dtype, device=self.values.device)
        return empty.index_put((self.tokens, self.latents.long()), self.values, accumulate=True)

    def sums(self) -> Float[torch.Tensor, " latents"]:
        """Sum of each latent's values over all tokens."""
        empty = torch.zeros(self.n_latents, dtype=self.values.dtype, device=self.values.device)
        return empty.index_add(0, self.latents, self.values)

    def counts(self) -> Int[torch.Tensor, " latents"]:
        """Number of tokens at which each latent is above zero."""
        return torch.bincount(self.latents[self.values > 0], minlength=self.n_latents)


def row_starts_of(counts: Int[torch.Tensor, " rows"]) -> Int[torch.Tensor, " rows_plus_1"]:
    """Where each row's entries begin, from the number of entries in each."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def of_latents(per_latent: Float[torch.Tensor, " latents"], codes: Codes) -> Float[torch.Tensor, " entries"]:
    """Each entry's value of its latent. The gradient is summed in a fixed order, which plain indexing does not promise."""
    gathered: torch.Tensor = _OfLatents.apply(per_latent, codes.with_values(codes.values.detach()))
    return gathered


class _OfLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: torch.Tensor, codes: Codes) -> torch.Tensor:
        ctx.codes = codes
        return per_latent[codes.latents.long()]

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.codes.with_values(upstream[0]).sums(), None
