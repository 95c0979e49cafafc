"""Dead latents, called back: they alone reconstruct what the living leave over (Gao et al. 2024, arXiv:2406.04093, appendix A.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float

from interp.sparse import TopK, decode, encode
from sae_training.architectures.base import Circumstances, SparseCoder
from sae_training.config import AuxKConfig


def aux_loss(
    coder: SparseCoder,
    config: AuxKConfig,
    x: Float[torch.Tensor, "tokens width"],
    error: Float[torch.Tensor, "tokens width"],
    now: Circumstances,
) -> dict[str, Float[torch.Tensor, ""]]:
    """The loss by name, or nothing where no latent is dead. It reaches encoder, bias and decoder of dead latents."""
    wanted = coder.layout.width // 2 if config.aux_k is None else config.aux_k
    if now.dead is None or not len(now.dead) or not wanted:
        return {}
    rule = TopK(min(wanted, len(now.dead)))
    codes = encode(x, coder.encoder, coder.encoder_bias, rule, coder.decoder_bias, among=now.dead)
    codes = codes.with_values(torch.relu(codes.values))
    left_over = error.detach()
    unit = now.mean(left_over.square().mean()).clamp(min=torch.finfo(left_over.dtype).tiny)
    missed = (left_over - decode(codes, coder.decoder)).square().mean() / unit
    return {"aux": config.aux_weight * missed}
