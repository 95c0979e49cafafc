"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv:2407.14435): a learnt threshold a latent, and a penalty on L0 itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from interp.sparse import Above, of_latents
from sae_training.architectures.base import Outcome, SparseCoder, StepContext
from sae_training.config import JumpReLUConfig
from sae_training.normalise import Layout


class JumpReLUCoder(SparseCoder[JumpReLUConfig]):
    """See `JumpReLUConfig`. Thresholds are learnt by their logarithm, through straight-through estimates."""

    kind = "jumprelu"

    def __init__(self, config: JumpReLUConfig, layout: Layout, generator: torch.Generator) -> None:
        super().__init__(config, layout, generator)
        self.log_threshold = nn.Parameter(torch.full((config.n_latents,), math.log(config.first_threshold)))

    def thresholds(self) -> Float[torch.Tensor, " latents"]:
        """See `SparseCoder.thresholds`."""
        return self.log_threshold.exp()

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`."""
        thresholds = self.thresholds()
        window = self.config.bandwidth / 2
        # Below a threshold, too: what lies in the window pulls at it.
        near = self.preactivations(x, Above((thresholds.detach() - window).clamp(min=0)))
        theta = of_latents(thresholds, near)
        values, active = _Jump.apply(torch.relu(near.values), theta, self.config.bandwidth)
        codes = near.with_values(values)  # entries at zero stay: what the decoder would make of them moves their thresholds
        reconstruction = self.decode(codes)
        penalty = context.ramp * self.config.l0_weight * active.sum() / len(x)
        return Outcome({"reconstruction": (x - reconstruction).square().mean(), "sparsity": penalty}, codes, reconstruction)


class _Jump(torch.autograd.Function):
    """(z where z > θ else 0, 1 where z > θ else 0), with the paper's pseudo-derivatives for θ (equations 11 and 12)."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, theta: torch.Tensor, bandwidth: float) -> tuple[torch.Tensor, torch.Tensor]:
        active = (z > theta).to(z.dtype)
        ctx.save_for_backward(z, theta, active)
        ctx.bandwidth = bandwidth
        return z * active, active

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        z, theta, active = ctx.saved_tensors
        window = ((z - theta).abs() < ctx.bandwidth / 2).to(z.dtype) / ctx.bandwidth
        return upstream[0] * active, -window * (theta * upstream[0] + upstream[1]), None
