"""Crosscoders: one dictionary that reads the residuals of a base and a tuned model at once, and writes both.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing", transformer-circuits.pub/2024/crosscoders.
A latent has one activation, and in each model a decoder row of its own: where one of its rows is (nearly) zero, the latent
belongs to the other model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.dictionaries.dictionary import Dictionary

BASE_ONLY, SHARED, TUNED_ONLY = "base-only", "shared", "tuned-only"


@dataclass(frozen=True, eq=False)
class Crosscoder(Dictionary):
    """A dictionary over several models at one hook point, with weights W_enc [models, d_in, latents] and W_dec [latents, models, d_in]."""

    models: tuple[str, ...] = ()
    """What it was trained on, in the order base, tuned."""

    def relative_norms(self) -> Float[torch.Tensor, " latents"]:
        """Each latent's share of the tuned model: ‖tuned row‖ / (‖base row‖ + ‖tuned row‖), 0.5 where both rows are zero.

        Raises `DictionaryError` for a crosscoder that does not read two models.
        """
        if self.n_models != 2:
            raise DictionaryError(f"Relative norms compare a base and a tuned model; this crosscoder reads {self.n_models} models.")
        base, tuned = self.w_dec.norm(dim=-1).unbind(1)
        total = base + tuned
        return torch.where(total > 0, tuned / total, 0.5)

    def labels(self, low: float = 0.1, high: float = 0.9) -> np.ndarray:
        """`base-only`, `shared` or `tuned-only` for every latent: relative norm below `low`, between, above `high`.

        A tuned-only latent is a candidate: sparsity alone can push the norms of a shared one apart (Minder et al. 2025,
        arXiv:2504.02922), so measure its activations in both models. Raises `DictionaryError` for limits out of order.
        """
        if not 0 <= low <= high <= 1:
            raise DictionaryError(f"low is {low} and high {high}: relative norms run from 0 to 1, and low comes first.")
        norms = self.relative_norms().cpu().numpy()
        return np.where(norms < low, BASE_ONLY, np.where(norms > high, TUNED_ONLY, SHARED))
