"""BatchTopK sparse autoencoder (Bussmann et al. 2024, arXiv:2412.06410): k latents a token on average, more where more is needed.

The threshold: in training the k × tokens largest activations of a batch stay; afterwards there is no batch, so the dictionary is saved
as a JumpReLU one with a fixed threshold, a running average of each batch's smallest activation that stayed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import BatchTopK, Codes
from sae_training.architectures.base import Outcome, SparseCoder, StepContext
from sae_training.config import BatchTopKConfig
from sae_training.normalise import Layout


class BatchTopKCoder(SparseCoder[BatchTopKConfig]):
    """See `BatchTopKConfig`. A crosscoder compares activations weighted by decoder norms (Minder et al. 2025, arXiv:2504.02922)."""

    kind = "jumprelu"
    threshold: torch.Tensor

    def __init__(self, config: BatchTopKConfig, layout: Layout, generator: torch.Generator) -> None:
        super().__init__(config, layout, generator)
        self._check_k(config.k)
        self.register_buffer("threshold", torch.zeros(()))

    def encode(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Codes:
        """Codes of a whole batch of normalised rows; moves the threshold."""
        norms = self.scale()
        codes = self.preactivations(x, BatchTopK(self.config.k, norms, context.all_gather, context.tokens, floor=0.8 * self.threshold))
        with torch.no_grad():
            scores = codes.values if norms is None else codes.values * norms[codes.latents.long()]
            weakest = scores.min() if len(scores) else self.threshold
            weakest = weakest if context.all_gather is None else context.all_gather(weakest[None]).min()
            moved = torch.lerp(self.threshold, weakest, self.config.threshold_rate)
            self.threshold.copy_(torch.where(self.threshold > 0, moved, weakest))
        return codes

    def thresholds(self) -> Float[torch.Tensor, " latents"]:
        """See `SparseCoder.thresholds`."""
        return self.threshold / self.norms()

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`."""
        codes = self.encode(x, context)
        reconstruction = self.decode(codes)
        error = x - reconstruction
        return Outcome({"reconstruction": error.square().mean()} | self.aux_loss(x, error, context), codes, reconstruction)
