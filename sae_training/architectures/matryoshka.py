"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv:2503.17547): the first latents alone must reconstruct, then more of them."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float

from interp.core.errors import TrainingError
from interp.sparse import Codes, decode
from interp.sparse.codes import row_starts_of
from sae_training.architectures.base import Outcome, StepContext
from sae_training.architectures.batch_topk import BatchTopKCoder
from sae_training.config import MatryoshkaConfig
from sae_training.normalise import Layout


class MatryoshkaCoder(BatchTopKCoder):
    """See `MatryoshkaConfig`."""

    def __init__(self, config: MatryoshkaConfig, layout: Layout, generator: torch.Generator) -> None:
        if config.base_only or config.tuned_only:
            raise TrainingError("A matryoshka dictionary has no dedicated latents: they would fill its innermost part. Use batchtopk.")
        super().__init__(config, layout, generator)
        self.edges = [0, *(round(share * config.n_latents) for share in config.nested), config.n_latents]
        if any(before >= after for before, after in pairwise(self.edges)):
            raise TrainingError(f"nested {config.nested} must ascend between 0 and 1, and each step must add a latent to the one before.")

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """See `SparseCoder.outcome`. The reconstruction loss is the mean over all nested dictionaries."""
        codes = self.encode(x, context)
        parts = decode(by_group(codes, self.edges), self.decoder).unflatten(0, (len(x), -1))
        reconstructions = parts.cumsum(1) + self.decoder_bias
        reconstruction = reconstructions[:, -1]
        losses = {"reconstruction": (x[:, None] - reconstructions).square().mean()} | self.aux_loss(x, x - reconstruction, context)
        return Outcome(losses, codes, reconstruction)


def by_group(codes: Codes, edges: list[int]) -> Codes:
    """The same entries with a row for each token and group of latents, so that one `decode` does all groups."""
    groups = len(edges) - 1
    inner = torch.tensor(edges[1:-1], device=codes.values.device)
    cells = codes.tokens * groups + torch.bucketize(codes.latents.long(), inner, right=True)  # ascends: latents do in a token
    return Codes(codes.values, codes.latents, row_starts_of(torch.bincount(cells, minlength=codes.n_tokens * groups)), codes.n_latents)
