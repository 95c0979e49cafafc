"""Which latents are active at which token, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class ByLatent:
    """The entries of a `Structure` in the order of their latents, tokens ascending within one."""

    order: Int[torch.Tensor, " entries"]
    """Index of each entry in the structure, int64."""
    starts: Int[torch.Tensor, " latents_plus_1"]
    """Where each latent's entries begin in `order`, int64; the last is the number of entries."""


class Sorter(Protocol):
    """Kernels that can sort."""

    def by_latent(self, structure: Structure) -> ByLatent:
        """Entries in the order of their latents."""


@dataclass(frozen=True)
class Structure:
    """Active latents of each token, in compressed rows: token t has entries `starts[t]` to `starts[t + 1]`."""

    latents: Int[torch.Tensor, " entries"]
    """Latent of each entry, int32."""
    starts: Int[torch.Tensor, " tokens_plus_1"]
    """Where each token's entries begin, int64; the last is the number of entries."""
    n_latents: int
    _memo: list[ByLatent] = field(default_factory=list, repr=False, compare=False)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.starts) - 1

    def by_latent(self, kernels: Sorter) -> ByLatent:
        """The entries by latent, sorted once: both weight gradients walk them so."""
        if not self._memo:
            self._memo.append(kernels.by_latent(self))
        return self._memo[0]

    @cached_property
    def tokens(self) -> Int[torch.Tensor, " entries"]:
        """Token of each entry, int64."""
        counts = self.starts.diff()
        rows = torch.arange(self.n_tokens, device=self.starts.device)
        return torch.repeat_interleave(rows, counts, output_size=len(self.latents))


def of_latents(per_latent: Float[torch.Tensor, " latents"], structure: Structure) -> Float[torch.Tensor, " entries"]:
    """Each entry's value of its latent. The gradient is summed in a fixed order, which plain indexing does not promise."""
    gathered: torch.Tensor = _OfLatents.apply(per_latent, structure)
    return gathered


class _OfLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: torch.Tensor, structure: Structure) -> torch.Tensor:
        ctx.structure = structure
        return per_latent[structure.latents.long()]

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        return Codes(upstream[0], ctx.structure).sums(), None


@dataclass(frozen=True)
class Codes:
    """Values at the active latents of each token; gradients flow through `values`."""

    values: Float[torch.Tensor, " entries"]
    structure: Structure

    def with_values(self, values: Float[torch.Tensor, " entries"]) -> Codes:
        """Other values at the same places."""
        return Codes(values, self.structure)

    def keep(self, chosen: Bool[torch.Tensor, " entries"]) -> Codes:
        """Only the chosen entries."""
        kept = torch.cat([chosen.new_zeros(1, dtype=torch.long), chosen.long().cumsum(0)])
        places = chosen.nonzero()[:, 0]
        structure = Structure(self.structure.latents[places], kept[self.structure.starts], self.structure.n_latents)
        return Codes(self.values[places], structure)

    def dense(self) -> Float[torch.Tensor, "tokens latents"]:
        """As a dense matrix, for small and explicit uses."""
        shape = (self.structure.n_tokens, self.structure.n_latents)
        empty = torch.zeros(shape, dtype=self.values.dtype, device=self.values.device)
        return empty.index_put((self.structure.tokens, self.structure.latents.long()), self.values, accumulate=True)

    def sums(self) -> Float[torch.Tensor, " latents"]:
        """Sum of each latent's values over all tokens."""
        empty = torch.zeros(self.structure.n_latents, dtype=self.values.dtype, device=self.values.device)
        return empty.index_add(0, self.structure.latents, self.values)

    def counts(self) -> Int[torch.Tensor, " latents"]:
        """Number of tokens at which each latent is above zero."""
        return torch.bincount(self.structure.latents[self.values > 0], minlength=self.structure.n_latents)
