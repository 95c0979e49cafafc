"""TopK sparse autoencoder (Gao et al. 2024, arXiv:2406.04093): the k strongest latents of each token reconstruct it."""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import Codes, TopK, encode
from sae_training.architectures.aux_k import aux_loss
from sae_training.architectures.base import Circumstances, Layout, Outcome, SparseCoder, check_k
from sae_training.config import TopKConfig


class TopKCoder(SparseCoder):
    """See `TopKConfig`. A crosscoder compares activations weighted by decoder norms."""

    kind = "topk"

    def __init__(self, config: TopKConfig, layout: Layout, generator: torch.Generator) -> None:
        check_k(config.k * (config.multi_k or 1), config)
        super().__init__(config, layout, generator)
        self.config = config

    @property
    def k(self) -> int:
        """See `SparseCoder.k`."""
        return self.config.k

    def encode(self, x: Float[torch.Tensor, "tokens width"], k: int) -> Codes:
        """Codes of normalised rows, the `k` strongest of each token, strongest first."""
        plain = self.layout.n_models == 1 and self.shared_config.decoder_norm == "unit"
        rule = TopK(k, None if plain else self.norms())
        codes = encode(x, self.encoder, self.encoder_bias, rule, self.decoder_bias)
        return codes.with_values(torch.relu(codes.values))

    def outcome(self, x: Float[torch.Tensor, "tokens width"], now: Circumstances) -> Outcome:
        """See `SparseCoder.outcome`."""
        config = self.config
        losses = {}
        codes = self.encode(x, config.k * (config.multi_k or 1))
        if config.multi_k:
            losses["multi"] = config.multi_weight * self.share_unexplained(x - self.decode(codes))
            rank = torch.arange(len(codes.values), device=x.device) % (config.k * config.multi_k)
            codes = codes.keep(rank < config.k)
        reconstruction = self.decode(codes)
        error = x - reconstruction
        losses["reconstruction"] = self.share_unexplained(error)
        losses |= aux_loss(self, config, x, error, now)
        return Outcome(losses, codes, reconstruction)
