"""Where many latents are active at once, as at the start of an L1 penalty: dense products, a chunk of tokens at a time, are faster."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from interp.sparse.codes import Codes

CHUNK_ENTRIES = 2**22
"""Numbers in a dense chunk."""
CROWDED = 1 / 16
"""Share of active latents above which dense products are faster; they do about so much more work in the same time."""


def crowded(codes: Codes) -> bool:
    """Whether to leave the sparse kernels."""
    return len(codes.latents) > CROWDED * codes.n_tokens * codes.n_latents


class DenseKernels:
    """The three products of `autograd.Kernels`, on any device."""

    def gather_sum(self, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out = weight.new_empty(codes.n_tokens, weight.shape[1])
        for tokens, entries, flat in _chunks(codes):
            torch.mm(_filled(codes.values[entries], flat, tokens, codes.n_latents).to(weight.dtype), weight.detach(), out=out[tokens])
        return out

    def gather_dot(self, rows: torch.Tensor, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out = rows.new_empty(len(codes.latents))
        for tokens, entries, flat in _chunks(codes):
            torch.take(torch.mm(rows[tokens].to(weight.dtype), weight.detach().T).to(rows.dtype), flat, out=out[entries])
        return out

    def scatter_outer(self, codes: Codes, rows: torch.Tensor, shift: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out.zero_()
        sums = codes.values.new_zeros(codes.n_latents)
        for tokens, entries, flat in _chunks(codes):
            dense = _filled(codes.values[entries], flat, tokens, codes.n_latents)
            out.addmm_(dense.T.to(out.dtype), rows[tokens].to(out.dtype))
            sums += dense.sum(0)
        if shift is not None:
            out.addr_(sums, shift.to(out.dtype), alpha=-1)
        return sums


def _chunks(codes: Codes) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Tokens, their entries, and each entry's place in a dense matrix of these tokens."""
    step = max(1, CHUNK_ENTRIES // codes.n_latents)
    for first in range(0, codes.n_tokens, step):
        last = min(codes.n_tokens, first + step)
        entries = slice(int(codes.row_starts[first]), int(codes.row_starts[last]))
        flat = (codes.tokens[entries] - first) * codes.n_latents + codes.latents[entries]
        yield slice(first, last), entries, flat


def _filled(values: torch.Tensor, flat: torch.Tensor, tokens: slice, n_latents: int) -> torch.Tensor:
    shape = (tokens.stop - tokens.start, n_latents)
    return values.new_zeros(shape[0] * shape[1]).scatter_(0, flat, values.detach()).view(shape)
