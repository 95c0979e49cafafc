"""Encode and decode with their gradients, on whatever kernels fit the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int

from interp.sparse import buffers
from interp.sparse.codes import ByLatent, Codes
from interp.sparse.dense import DenseKernels, crowded
from interp.sparse.rules import Rule, Selectors


class Products(Protocol):
    """Products of codes with dense matrices. They take and give plain tensors and know no gradient."""

    def gather_sum(self, codes: Codes, weight: Float[torch.Tensor, "latents d_in"]) -> Float[torch.Tensor, "tokens d_in"]:
        """Each token's sum of value × weight row."""

    def gather_dot(
        self, rows: Float[torch.Tensor, "tokens d_in"], codes: Codes, weight: Float[torch.Tensor, "latents d_in"]
    ) -> Float[torch.Tensor, " entries"]:
        """Each entry's product of its token's row and its latent's weight row."""

    def scatter_outer(
        self,
        codes: Codes,
        rows: Float[torch.Tensor, "tokens d_in"],
        shift: Float[torch.Tensor, " d_in"] | None,
        out: Float[torch.Tensor, "latents d_in"],
    ) -> Float[torch.Tensor, " latents"]:
        """Fill `out` with each latent's sum of value × (token's row − shift), and return each latent's sum of values."""


class Kernels(Selectors, Products, Protocol):
    """What a device must offer."""

    def preactivations(
        self, x: Float[torch.Tensor, "tokens d_in"], weight: Float[torch.Tensor, "latents d_in"], bias: Float[torch.Tensor, " latents"]
    ) -> Iterator[Float[torch.Tensor, "chunk latents"]]:
        """`x @ weight.T + bias`, a chunk of tokens at a time; a chunk may be overwritten."""

    def by_latent(self, codes: Codes) -> ByLatent:
        """Entries in the order of their latents."""


def kernels_for(device: torch.device) -> Kernels:
    """The kernels of a device: Triton's on CUDA, numba's elsewhere."""
    if device.type == "cuda":
        from interp.sparse import cuda

        return cuda.KERNELS
    from interp.sparse import cpu

    return cpu.KERNELS


def encode(
    x: Float[torch.Tensor, "tokens d_in"],
    weight: Float[torch.Tensor, "latents d_in"],
    bias: Float[torch.Tensor, " latents"],
    rule: Rule,
    centre: Float[torch.Tensor, " d_in"] | None = None,
    among: Int[torch.Tensor, " some"] | None = None,
    kernels: Kernels | None = None,
) -> Codes:
    """Pre-activations `(x - centre) @ weight.T + bias` at the latents that `rule` chooses, as they are: rectify them yourself.

    Gradients reach `weight`, `bias`, `centre`, and `x` where it asks for one. `among` restricts the choice to some latents
    (int64 indices), whose pre-activations alone are made. `kernels` overrides the choice by device.
    """
    kernels = kernels or kernels_for(x.device)
    with torch.no_grad():
        with torch.autocast(x.device.type, enabled=False):  # a shift of all tokens must not be rounded
            shift = bias if centre is None else torch.addmv(bias, weight, centre.to(weight.dtype), alpha=-1)
        rows, offsets = (weight, shift) if among is None else (weight[among], shift[among])
        codes = rule.select(kernels, lambda: kernels.preactivations(x, rows, offsets), len(x))
        if among is not None:
            codes = Codes(codes.values, among[codes.latents.long()].int(), codes.row_starts, len(weight))
    return codes.with_values(_Encode.apply(x, weight, bias, centre, codes.values, codes, products_for(codes, kernels)))


def decode(codes: Codes, weight: Float[torch.Tensor, "latents d_in"], kernels: Kernels | None = None) -> Float[torch.Tensor, "tokens d_in"]:
    """Each token's sum of value × decoder row. Gradients reach the values and `weight`."""
    plain = codes.with_values(codes.values.detach())
    decoded: torch.Tensor = _Decode.apply(codes.values, weight, plain, products_for(codes, kernels))
    return decoded


def products_for(codes: Codes, kernels: Kernels | None = None) -> Products:
    """Dense products where many latents are active at once, else those of `kernels` (default: of the codes' device)."""
    return DenseKernels() if crowded(codes) else kernels or kernels_for(codes.values.device)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        centre: torch.Tensor | None,
        raw: torch.Tensor,
        codes: Codes,
        kernels: Products,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, centre)
        ctx.codes, ctx.kernels = codes, kernels
        return raw

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, centre = ctx.saved_tensors
        codes = ctx.codes.with_values(upstream[0].contiguous())
        weight_grad = buffers.take(weight)
        sums = ctx.kernels.scatter_outer(codes, x, centre, weight_grad)
        x_grad = ctx.kernels.gather_sum(codes, weight) if ctx.needs_input_grad[0] else None
        # Every token's gradient passes through the same `- centre`: the sum over tokens first, then one product.
        centre_grad = -(sums @ weight) if ctx.needs_input_grad[3] else None
        return x_grad, weight_grad, sums, centre_grad, None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, codes: Codes, kernels: Products) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        ctx.codes, ctx.kernels = codes, kernels
        return kernels.gather_sum(codes, weight)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        rows = upstream[0].contiguous()
        values_grad = ctx.kernels.gather_dot(rows, ctx.codes, weight) if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = buffers.take(weight)
            ctx.kernels.scatter_outer(ctx.codes.with_values(values), rows, None, weight_grad)
        return values_grad, weight_grad, None, None
