"""Kernels for CUDA: torch's own for the choice of latents, Triton's (`triton_kernels`) for the sparse sums.

Sums are taken in float32 (float64 for float64), whatever the tensors hold, and in a fixed order: equal inputs give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from interp.core.errors import TrainingError
from interp.sparse.codes import ByLatent, Codes

try:
    import triton
    import triton.language as tl

    from interp.sparse import triton_kernels
except ImportError as error:
    raise TrainingError(
        f"Dictionaries on a CUDA device need the package triton, which cannot be imported ({error}): install it with "
        "`pip install triton`, in the version that your torch names, or use the CPU."
    ) from error

CHUNK_ENTRIES = 2**28
"""Pre-activations made at a time: 1 GiB of float32."""
ENTRIES_EACH = 8
"""Entries of a tile: rows on their way from memory at the same time. It sets the order of the sums."""
BYTES_PER_THREAD = 16
"""Of a row that one thread loads at once: the widest load there is."""


class CudaKernels:
    """See `autograd.Kernels`."""

    def preactivations(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Iterator[torch.Tensor]:
        """In autocast's type where that is on, in bfloat16 where `x` or `weight` is; both sum in float32."""
        dtype = _product_type(x, weight)
        factor, offsets = weight.to(dtype).T, bias.to(dtype)
        return (torch.addmm(offsets, chunk.to(dtype), factor) for chunk in x.split(max(1, CHUNK_ENTRIES // len(weight))))

    def largest(self, chunk: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k groups with the largest maxima hold the k largest: torch's selection, slow on long rows, sees two short ones."""
        n = chunk.shape[1]
        depth = math.isqrt(n // max(k, 1))  # the two rows are of about equal length then
        if depth < 4 or n < 1024:
            values, columns = chunk.topk(k)
            return _wide(values), columns.int()
        width = n // depth // 8 * 8  # group g holds the columns g, g + width, …; the columns after the last full layer are on their own
        groups = chunk[:, : depth * width].unflatten(1, (depth, width)).amax(1).topk(k, sorted=False).indices
        layers = torch.arange(0, depth * width, width, device=chunk.device)
        rest = torch.arange(depth * width, n, device=chunk.device).expand(len(chunk), -1)
        columns = torch.cat([(groups[:, None] + layers[:, None]).flatten(1), rest], dim=1)
        values, places = chunk.gather(1, columns).topk(k)
        return _wide(values), columns.gather(1, places).int()

    def above(self, chunk: torch.Tensor, bound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compared in the wider of both types: a bound of no dimension would be rounded to the type of `chunk`."""
        found = chunk > bound.expand(chunk.shape[1])
        places = found.flatten().nonzero()[:, 0]
        return _wide(chunk.flatten()[places]), (places % chunk.shape[1]).int(), found.sum(1)

    def by_latent(self, codes: Codes) -> ByLatent:
        """By torch's stable sort."""
        latents, order = codes.latents.sort(stable=True)
        edges = torch.arange(codes.n_latents + 1, dtype=torch.int32, device=latents.device)
        return ByLatent(order, torch.searchsorted(latents, edges))

    def gather_sum(self, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """In the wider type of the values and `weight`."""
        d_in = weight.shape[1]
        out = weight.new_empty(codes.n_tokens, d_in, dtype=torch.promote_types(codes.values.dtype, weight.dtype))
        columns = _columns(weight, warps=1)
        _launch(
            triton_kernels.gather_sum, (codes.n_tokens, triton.cdiv(d_in, columns)), 1,
            codes.values, codes.latents, codes.row_starts, weight, out, d_in, ENTRIES_EACH, columns, _sum_type(out),
        )  # fmt: skip
        return out

    def gather_dot(self, rows: torch.Tensor, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """In the wider type of `rows` and `weight`."""
        out = rows.new_empty(len(codes.latents), dtype=torch.promote_types(rows.dtype, weight.dtype))
        warps = _warps(weight)
        _launch(
            triton_kernels.gather_dot, (codes.n_tokens,), warps,
            rows, codes.latents, codes.row_starts, weight, out, weight.shape[1], ENTRIES_EACH, _columns(weight, warps), _sum_type(out),
        )  # fmt: skip
        return out

    def scatter_outer(self, codes: Codes, rows: torch.Tensor, shift: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
        """The sums of the values come in the type of `out`."""
        assert out.is_contiguous()
        by_latent, d_in = codes.by_latent(self.by_latent), rows.shape[1]
        sums = out.new_empty(codes.n_latents)
        warps = _warps(rows)
        columns = _columns(rows, warps)
        _launch(
            triton_kernels.scatter_outer, (codes.n_latents, triton.cdiv(d_in, columns)), warps,
            codes.values[by_latent.order], codes.tokens[by_latent.order], by_latent.starts, rows, shift, out, sums,
            d_in, ENTRIES_EACH, columns, _sum_type(out),
        )  # fmt: skip
        return sums


KERNELS = CudaKernels()


def _product_type(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if x.dtype.itemsize < weight.dtype.itemsize else weight.dtype


def _wide(values: torch.Tensor) -> torch.Tensor:
    """The few values that stay are kept in float32 at least: what follows need not round them again."""
    return values.float() if values.dtype.itemsize < 4 else values


def _sum_type(out: torch.Tensor) -> Any:
    return tl.float64 if out.dtype == torch.float64 else tl.float32


def _warps(rows: torch.Tensor) -> int:
    """Four warps where a row gives them all something to load, twice at least."""
    return 4 if rows.shape[1] * rows.dtype.itemsize >= 2 * 4 * 32 * BYTES_PER_THREAD else 1


def _columns(rows: torch.Tensor, warps: int) -> int:
    """Columns of a tile, a power of two: one load for each thread, no more than a row has."""
    return min(warps * 32 * BYTES_PER_THREAD // rows.dtype.itemsize, triton.next_power_of_2(rows.shape[1]))


def _launch(kernel: Any, grid: tuple[int, ...], warps: int, *arguments: Any) -> None:
    """Call a kernel on the device of its tensors; an empty grid is nothing to do."""
    plain = [argument.detach().contiguous() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    if math.prod(grid):
        with torch.cuda.device_of(plain[0]):
            kernel[grid](*plain, num_warps=warps, enable_fp_fusion=True)
