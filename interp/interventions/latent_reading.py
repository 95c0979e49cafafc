"""What some latents of an SAE do at given residuals, and no more work than that takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from interp.dictionaries.sae import SAE


class LatentReader:
    """Activations of chosen latents by the SAE's encoder.

    TopK latents compete with all others, so all are encoded; of the other architectures only the chosen columns are.
    """

    def __init__(self, sae: SAE, latents: Sequence[int], device: torch.device) -> None:
        self.n = len(latents)
        chosen = torch.tensor(latents)
        competing = sae.k is not None
        self.sae = (sae if competing else sae.some_latents(chosen.to(sae.w_enc.device))).to(device)
        self.column = torch.full((self.sae.n_latents,), self.n)  # latents that are not asked for share a column after the others
        self.column[chosen if competing else torch.arange(self.n)] = torch.arange(self.n)
        self.column = self.column.to(device)

    def __call__(self, residuals: Float[torch.Tensor, "tokens d_in"]) -> Float[torch.Tensor, "tokens n"]:
        """Activations in float32; raises `DictionaryError` for values that are not finite."""
        codes = self.sae.encode(residuals)
        table = codes.values.new_zeros(codes.n_tokens, self.n + 1)
        table[codes.tokens, self.column[codes.latents.long()]] = codes.values
        return table[:, : self.n]
