"""TopK sparse autoencoder (Gao et al. 2024, arXiv:2406.04093): the k strongest latents of each token reconstruct it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import nn

from sae_training.sparse_ops import cpu


class TopK(nn.Module):
    """Works on normalised input `(x - mean) · scale`; decoder rows are kept at norm one."""

    def __init__(self, d_in: int, n_latents: int, k: int, seed: int) -> None:
        super().__init__()
        rows = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(seed))
        rows /= rows.norm(dim=-1, keepdim=True)
        self.k = k
        self.encoder = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(n_latents))
        self.decoder = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(d_in))

    def forward(
        self, x: Float[torch.Tensor, "tokens d_in"]
    ) -> tuple[Float[torch.Tensor, "tokens d_in"], Float[torch.Tensor, "tokens k"], Int[torch.Tensor, "tokens k"]]:
        """Reconstruction, values and indices."""
        values, indices = cpu.encode(x - self.decoder_bias.detach(), self.encoder, self.encoder_bias, self.k)
        return cpu.decode(values, indices, self.decoder) + self.decoder_bias, values, indices

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take the part of the decoder's gradient along each row away: it only changes the norm, which is kept at one."""
        if self.decoder.grad is not None:
            self.decoder.grad -= (self.decoder.grad * self.decoder).sum(-1, keepdim=True) * self.decoder

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring decoder rows back to norm one."""
        self.decoder.div_(self.decoder.norm(dim=-1, keepdim=True))

    @torch.no_grad()
    def folded(self, mean: Float[torch.Tensor, " d_in"], scale: float) -> dict[str, torch.Tensor]:
        """Weights in sae-lens' naming that act on raw residuals: mean and scale folded in, decoder rows still of norm one."""
        centre = mean + self.decoder_bias / scale
        return {
            "W_enc": self.encoder.T.contiguous(),
            "b_enc": self.encoder_bias / scale - self.encoder @ centre,
            "W_dec": self.decoder.clone(),
            "b_dec": centre,
        }
