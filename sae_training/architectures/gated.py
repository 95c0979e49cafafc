"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv:2404.16014): one bias decides whether, another how strongly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from interp.core.errors import TrainingError
from interp.sparse import Above, decode, of_latents
from sae_training.architectures.base import Outcome, SparseCoder, StepContext
from sae_training.config import GatedConfig
from sae_training.normalise import Layout, Normaliser


class GatedCoder(SparseCoder[GatedConfig]):
    """See `GatedConfig`. `encoder_bias` is the gate's; magnitudes share the encoder's directions, scaled by exp(`log_gain`)."""

    kind = "gated"

    def __init__(self, config: GatedConfig, layout: Layout, generator: torch.Generator) -> None:
        if layout.n_models != 1:
            raise TrainingError("A gated dictionary reads one model. Choose another kind for a crosscoder.")
        super().__init__(config, layout, generator)
        self.log_gain = nn.Parameter(torch.zeros(config.n_latents))
        self.magnitude_bias = nn.Parameter(torch.zeros(config.n_latents))

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`. `gate` is the paper's auxiliary loss: open gates alone must reconstruct, through a frozen decoder."""
        gates = self.preactivations(x, Above(x.new_zeros(())))
        direction = gates.values - of_latents(self.encoder_bias, gates)
        gain, bias = (of_latents(each, gates) for each in (self.log_gain.exp(), self.magnitude_bias))
        magnitudes = torch.relu(gain * direction + bias)
        codes = gates.with_values(magnitudes)
        reconstruction = self.decode(codes)
        by_gates = decode(gates, self.decoder.detach()) + self.decoder_bias.detach()
        losses = {
            "reconstruction": (x - reconstruction).square().mean(),
            "sparsity": context.ramp * self.config.l1_weight * self.l1(gates),
            "gate": (x - by_gates).square().mean(),
        }
        return Outcome(losses, codes, reconstruction)

    @torch.no_grad()
    def folded(self, normaliser: Normaliser) -> dict[str, torch.Tensor]:
        """See `SparseCoder.folded`; in sae-lens' naming of a gated dictionary."""
        weights = super().folded(normaliser)
        unbiased = weights["b_enc"] - (self.encoder_bias / normaliser.scale).cpu()
        # The direction enters the magnitude after a gain, so its share of the folded mean does as well.
        weights["b_gate"] = weights.pop("b_enc")
        weights["r_mag"] = self.log_gain.detach().cpu().clone()
        weights["b_mag"] = (self.magnitude_bias / normaliser.scale).cpu() + self.log_gain.exp().cpu() * unbiased
        return weights
