"""TopK sparse autoencoder (Gao et al. 2024, arXiv:2406.04093): the k strongest latents of each token reconstruct it."""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import TopK
from sae_training.architectures.base import Outcome, SparseCoder, StepContext
from sae_training.config import TopKConfig
from sae_training.normalise import Layout


class TopKCoder(SparseCoder[TopKConfig]):
    """See `TopKConfig`. A crosscoder compares activations weighted by decoder norms."""

    kind = "topk"

    def __init__(self, config: TopKConfig, layout: Layout, generator: torch.Generator) -> None:
        super().__init__(config, layout, generator)
        self.k = config.k
        self._check_k(config.k * (config.multi_k or 1))

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`."""
        config, losses = self.config, {}
        codes = self.preactivations(x, TopK(config.k * (config.multi_k or 1), self.scale()))  # strongest first
        codes = codes.with_values(torch.relu(codes.values))
        if config.multi_k:
            losses["multi"] = config.multi_weight * (x - self.decode(codes)).square().mean()
            rank = torch.arange(len(codes.values), device=x.device) % (config.k * config.multi_k)
            codes = codes.keep(rank < config.k)
        reconstruction = self.decode(codes)
        error = x - reconstruction
        losses |= {"reconstruction": error.square().mean()} | self.aux_loss(x, error, context)
        return Outcome(losses, codes, reconstruction)
