"""Products and sums over the active entries of sparse codes, on the device where they lie."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from interp.sparse import Codes
from interp.sparse.autograd import products_for


def add_at(target: torch.Tensor, place: Int[torch.Tensor, " entries"], values: torch.Tensor) -> None:
    """Add to a contiguous target at flat places, in a fixed order on every device."""
    flat, values = target.view(-1), values.to(target.dtype)
    if target.device.type == "cpu":
        flat.index_add_(0, place, values)
    else:
        flat.index_put_((place,), values, accumulate=True)  # sorts first; index_add_ adds in any order there


def dots(
    rows: Float[torch.Tensor, "tokens d_model"], codes: Codes, table: Float[torch.Tensor, "latents d_model"]
) -> Float[torch.Tensor, " entries"]:
    """For each entry of `codes` the product of its token's row and its latent's row of `table`."""
    return products_for(codes).gather_dot(rows, codes, table)
