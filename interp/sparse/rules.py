"""Rules that say which pre-activations stay: the k largest of each token, of the whole batch, or all above a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int

from interp.sparse.codes import Codes, row_starts_of

Chunks = Callable[[], Iterable[Float[torch.Tensor, "chunk latents"]]]
"""Makes the pre-activations, a chunk of tokens at a time."""


class Selectors(Protocol):
    """What a rule asks of the kernels of a device; both work on one chunk of pre-activations."""

    def largest(
        self, chunk: Float[torch.Tensor, "chunk latents"], k: int
    ) -> tuple[Float[torch.Tensor, "chunk k"], Int[torch.Tensor, "chunk k"]]:
        """Values and latents (int32) of each row's `k` largest, largest first."""

    def above(
        self, chunk: Float[torch.Tensor, "chunk latents"], bound: Float[torch.Tensor, "*latents"]
    ) -> tuple[Float[torch.Tensor, " entries"], Int[torch.Tensor, " entries"], Int[torch.Tensor, " chunk"]]:
        """Values and latents (int32) of all entries above `bound`, row by row, and their number in each row (int64)."""


class Rule(Protocol):
    """Chooses the active latents of each token."""

    def select(self, kernels: Selectors, chunks: Chunks, n_tokens: int) -> Codes:
        """Codes of the pre-activations that stay, as they are. `chunks` may be overwritten."""


@dataclass(frozen=True)
class TopK:
    """The `k` largest pre-activations of each token, largest first (Gao et al. 2024, arXiv:2406.04093)."""

    k: int
    scale: Float[torch.Tensor, " latents"] | None = None
    """Compare pre-activation × scale instead; positive. Crosscoders compare by decoder norm."""

    def select(self, kernels: Selectors, chunks: Chunks, n_tokens: int) -> Codes:
        """See `Rule`."""

        def choose(chunk: torch.Tensor) -> Codes:
            values, latents = kernels.largest(_scaled(chunk, self.scale), self.k)
            row_starts = torch.arange(0, values.numel() + 1, self.k, device=values.device)
            return Codes(values.flatten(), latents.flatten(), row_starts, chunk.shape[1])

        return _unscaled(Codes.joined(list(map(choose, chunks()))), self.scale)  # a loop would hold each chunk until the next is made


@dataclass(frozen=True)
class BatchTopK:
    """The `k` × tokens largest positive pre-activations of the whole batch (Bussmann et al. 2024, arXiv:2412.06410)."""

    k: int
    scale: Float[torch.Tensor, " latents"] | None = None
    """As in `TopK`."""
    all_gather: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Gathers candidate values from all data-parallel processes, so that the bound is that of the global batch."""
    tokens: int | None = None
    """Tokens of the global batch, where it is more than what is encoded here."""
    floor: Float[torch.Tensor, ""] | None = None
    """A score that the weakest chosen one is thought to exceed. A good guess saves time; a wrong one costs some and changes nothing."""

    def select(self, kernels: Selectors, chunks: Chunks, n_tokens: int) -> Codes:
        """See `Rule`."""
        count = self.k * (self.tokens or n_tokens)
        chosen, rivals = self._candidates(kernels, chunks, count, self.floor)
        if self.floor is not None and len(rivals) < count:
            chosen, rivals = self._candidates(kernels, chunks, count, None)
        if len(rivals) > count:
            chosen = chosen.keep(chosen.values >= _kth_largest(rivals, count))
        return _unscaled(chosen, self.scale)

    def _candidates(
        self, kernels: Selectors, chunks: Chunks, count: int, floor: torch.Tensor | None
    ) -> tuple[Codes, Float[torch.Tensor, " gathered"]]:
        """Entries among which the `count` largest are, and the values of all processes' such entries."""
        parts: list[Codes] = []
        for chunk in chunks():
            bound = chunk.new_zeros(()) if floor is None else floor.clamp(min=0).to(chunk.dtype)
            parts.append(_above(kernels, _scaled(chunk, self.scale), bound))
            if sum(len(part.values) for part in parts) > 2 * count:  # what falls behind so many others never comes back
                candidates = Codes.joined(parts)
                floor = _kth_largest(candidates.values, count)
                parts = [candidates.keep(candidates.values >= floor)]
        candidates = Codes.joined(parts)
        return candidates, candidates.values if self.all_gather is None else self.all_gather(candidates.values)


@dataclass(frozen=True)
class Above:
    """Every pre-activation above its latent's `bound`."""

    bound: Float[torch.Tensor, "*latents"]

    def select(self, kernels: Selectors, chunks: Chunks, n_tokens: int) -> Codes:
        """See `Rule`."""

        def choose(chunk: torch.Tensor) -> Codes:
            return _above(kernels, chunk, self.bound)

        return Codes.joined(list(map(choose, chunks())))


def _above(kernels: Selectors, chunk: torch.Tensor, bound: torch.Tensor) -> Codes:
    values, latents, per_row = kernels.above(chunk, bound)
    return Codes(values, latents, row_starts_of(per_row), chunk.shape[1])


def _kth_largest(values: torch.Tensor, k: int) -> torch.Tensor:
    if values.is_cuda:  # where `kthvalue` works on one long row with a single block
        return values.topk(k, sorted=False).values.amin()
    return values.kthvalue(len(values) - k + 1).values


def _scaled(chunk: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return chunk if scale is None else chunk.mul_(scale)


def _unscaled(codes: Codes, scale: torch.Tensor | None) -> Codes:
    return codes if scale is None else codes.with_values(codes.values / scale[codes.latents.long()])
