"""ReLU sparse autoencoder with an L1 penalty (Bricken et al. 2023; norms in the penalty: Conerly et al., April 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field

from interp.sparse import Above, Codes, encode
from sae_training.architectures.base import Circumstances, CoderConfig, Layout, Outcome, SparseCoder


class StandardConfig(CoderConfig):
    """A ReLU sparse autoencoder with an L1 penalty on activations, weighted by decoder norms."""

    kind: Literal["standard"] = "standard"
    """Name of the architecture."""
    l1_weight: float = Field(default=0.1, gt=0)
    """Weight of the penalty: mean over tokens of Σ activation × decoder norm, over the square root of the row's width."""


class StandardCoder(SparseCoder):
    """See `StandardConfig`. A crosscoder's penalty sums the norms of all models (Lindsey et al. 2024)."""

    kind = "standard"

    def __init__(self, config: StandardConfig, layout: Layout, generator: torch.Generator) -> None:
        super().__init__(config, layout, generator)
        self.config = config

    def outcome(self, x: Float[torch.Tensor, "tokens width"], now: Circumstances) -> Outcome:
        """See `SparseCoder.outcome`."""
        codes = encode(x, self.encoder, self.encoder_bias, Above(x.new_zeros(())), self.decoder_bias)
        reconstruction = self.decode(codes)
        penalty = now.ramp * self.config.l1_weight * l1(self, codes, len(x))
        return Outcome({"reconstruction": self.share_unexplained(x - reconstruction), "sparsity": penalty}, codes, reconstruction)


def l1(coder: SparseCoder, codes: Codes, n_tokens: int) -> Float[torch.Tensor, ""]:
    """Mean over tokens of Σ value × decoder norm, in units of a row's typical norm."""
    width, models = coder.layout.width, coder.layout.n_models
    if coder.shared_config.decoder_norm == "unit" and models == 1:
        weighted = codes.values.sum()
    else:
        weighted = codes.sums() @ coder.decoder.unflatten(1, (models, coder.layout.d_in)).norm(dim=-1).sum(-1)
    return weighted / (n_tokens * width**0.5)
