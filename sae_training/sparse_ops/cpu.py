"""Sparse encode and decode: work and memory follow tokens × k, apart from the pre-activations themselves."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta.*")  # the one product used here is tested


def encode(
    x: Float[torch.Tensor, "tokens d_in"], weight: Float[torch.Tensor, "latents d_in"], bias: Float[torch.Tensor, " latents"], k: int
) -> tuple[Float[torch.Tensor, "tokens k"], Int[torch.Tensor, "tokens k"]]:
    """Values and indices of the `k` largest pre-activations, values rectified. `x` gets no gradient: it is data."""
    values, indices = _Encode.apply(x, weight, bias, k)
    return values, indices


def decode(
    values: Float[torch.Tensor, "tokens k"], indices: Int[torch.Tensor, "tokens k"], weight: Float[torch.Tensor, "latents d_in"]
) -> Float[torch.Tensor, "tokens d_in"]:
    """Sum of decoder rows, weighted by `values`."""
    return torch.nn.functional.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = torch.addmm(bias, x, weight.T).topk(k, dim=-1, sorted=False)
        values = torch.relu(values)
        ctx.save_for_backward(x, values, indices)
        ctx.n_latents = len(bias)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor, None]:
        x, values, indices = ctx.saved_tensors
        upstream = grads[0] * (values > 0)
        by_latent = _transposed_csr(upstream, indices, ctx.n_latents)
        bias_grad = torch.zeros(ctx.n_latents, dtype=x.dtype).index_add_(0, indices.flatten(), upstream.flatten())
        return None, by_latent @ x, bias_grad, None


def _transposed_csr(values: torch.Tensor, indices: torch.Tensor, n_latents: int) -> torch.Tensor:
    """The codes as a sparse `[latents, tokens]` matrix, whose product with `[tokens, d]` is a weight gradient."""
    flat, order = indices.flatten().sort(stable=True)
    starts = torch.zeros(n_latents + 1, dtype=torch.long)
    starts[1:] = torch.bincount(flat, minlength=n_latents).cumsum(0)
    tokens = order // indices.shape[1]
    return torch.sparse_csr_tensor(starts, tokens, values.flatten()[order], (n_latents, len(values)), check_invariants=False)
