"""Where many latents are active at once, as at the start of an L1 penalty: dense products, a chunk of tokens at a time, are faster."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from interp.sparse.codes import Structure

CHUNK_ENTRIES = 2**22
"""Numbers in a dense chunk."""
CROWDED = 1 / 16
"""Share of active latents above which dense products are faster; they do about so much more work in the same time."""


def crowded(structure: Structure) -> bool:
    """Whether to leave the sparse kernels."""
    return len(structure.latents) > CROWDED * structure.n_tokens * structure.n_latents


class DenseKernels:
    """The three products of `autograd.Kernels`, on any device."""

    def gather_sum(self, values: torch.Tensor, structure: Structure, weight: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out = weight.new_empty(structure.n_tokens, weight.shape[1])
        for tokens, entries, flat in _chunks(structure):
            torch.mm(_filled(values[entries], flat, tokens, structure).to(weight.dtype), weight.detach(), out=out[tokens])
        return out

    def gather_dot(self, rows: torch.Tensor, structure: Structure, weight: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out = rows.new_empty(len(structure.latents))
        for tokens, entries, flat in _chunks(structure):
            torch.take(torch.mm(rows[tokens].to(weight.dtype), weight.detach().T).to(rows.dtype), flat, out=out[entries])
        return out

    def scatter_outer(
        self, values: torch.Tensor, structure: Structure, rows: torch.Tensor, shift: torch.Tensor | None, out: torch.Tensor
    ) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out.zero_()
        sums = values.new_zeros(structure.n_latents)
        for tokens, entries, flat in _chunks(structure):
            dense = _filled(values[entries], flat, tokens, structure)
            out.addmm_(dense.T.to(out.dtype), rows[tokens].to(out.dtype))
            sums += dense.sum(0)
        if shift is not None:
            out.addr_(sums, shift.to(out.dtype), alpha=-1)
        return sums


def _chunks(structure: Structure) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Tokens, their entries, and each entry's place in a dense matrix of these tokens."""
    step = max(1, CHUNK_ENTRIES // structure.n_latents)
    for first in range(0, structure.n_tokens, step):
        last = min(structure.n_tokens, first + step)
        entries = slice(int(structure.starts[first]), int(structure.starts[last]))
        flat = (structure.tokens[entries] - first) * structure.n_latents + structure.latents[entries]
        yield slice(first, last), entries, flat


def _filled(values: torch.Tensor, flat: torch.Tensor, tokens: slice, structure: Structure) -> torch.Tensor:
    shape = (tokens.stop - tokens.start, structure.n_latents)
    return values.new_zeros(shape[0] * shape[1]).scatter_(0, flat, values.detach()).view(shape)
