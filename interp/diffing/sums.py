"""Products and sums over the active entries of sparse codes, on the device where they lie."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from interp.sparse.autograd import kernels_for
from interp.sparse.codes import Structure
from interp.sparse.dense import DenseKernels, crowded
from interp.sparse.sparse_codes import SparseCodes


def add_at(target: torch.Tensor, place: Int[torch.Tensor, " entries"], values: torch.Tensor) -> None:
    """Add to a contiguous target at flat places, in a fixed order on every device."""
    flat, values = target.view(-1), values.to(target.dtype)
    if target.device.type == "cpu":
        flat.index_add_(0, place, values)
    else:
        flat.index_put_((place,), values, accumulate=True)  # sorts first; index_add_ adds in any order there


def dots(
    rows: Float[torch.Tensor, "tokens d_model"], codes: SparseCodes, table: Float[torch.Tensor, "latents d_model"]
) -> Float[torch.Tensor, " entries"]:
    """For each entry of `codes` the product of its token's row and its latent's row of `table`."""
    structure = Structure(codes.flat_indices.int(), codes.starts, len(table))
    kernels = DenseKernels() if crowded(structure) else kernels_for(rows.device)
    return kernels.gather_dot(rows, structure, table)
