"""ReLU sparse autoencoder with an L1 penalty (Bricken et al. 2023; norms in the penalty: Conerly et al., April 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import Above
from sae_training.architectures.base import Outcome, SparseCoder, StepContext
from sae_training.config import StandardConfig


class StandardCoder(SparseCoder[StandardConfig]):
    """See `StandardConfig`. A crosscoder's penalty sums the norms of all models (Lindsey et al. 2024)."""

    kind = "standard"

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`."""
        codes = self.preactivations(x, Above(x.new_zeros(())))
        reconstruction = self.decode(codes)
        penalty = context.ramp * self.config.l1_weight * self.l1(codes)
        return Outcome({"reconstruction": (x - reconstruction).square().mean(), "sparsity": penalty}, codes, reconstruction)
