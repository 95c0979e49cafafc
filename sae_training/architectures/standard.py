"""ReLU sparse autoencoder with an L1 penalty (Bricken et al. 2023; norms in the penalty: Conerly et al., April 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import Above, Codes, encode
from sae_training.architectures.base import Circumstances, Layout, Outcome, SparseCoder
from sae_training.config import StandardConfig


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
