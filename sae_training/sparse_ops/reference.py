"""The same operations by plain autograd on dense matrices: slow, and right."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int


def encode(
    x: Float[torch.Tensor, "tokens d_in"], weight: Float[torch.Tensor, "latents d_in"], bias: Float[torch.Tensor, " latents"], k: int
) -> tuple[Float[torch.Tensor, "tokens k"], Int[torch.Tensor, "tokens k"]]:
    """Values and indices of the `k` largest pre-activations, values rectified."""
    values, indices = (x @ weight.T + bias).topk(k, dim=-1)
    return torch.relu(values), indices


def decode(
    values: Float[torch.Tensor, "tokens k"], indices: Int[torch.Tensor, "tokens k"], weight: Float[torch.Tensor, "latents d_in"]
) -> Float[torch.Tensor, "tokens d_in"]:
    """Sum of decoder rows, weighted by `values`."""
    dense = torch.zeros(len(values), len(weight), dtype=values.dtype).scatter(1, indices, values)
    return dense @ weight
