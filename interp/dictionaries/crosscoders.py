"""Crosscoders: one dictionary that reads the residuals of a base and a tuned model at once, and writes both.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing", transformer-circuits.pub/2024/crosscoders.
A latent has one activation, and in each model a decoder row of its own: where one of its rows is (nearly) zero, the latent
belongs to the other model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.dictionaries.files import CROSSCODERS, read_dictionary
from interp.dictionaries.sae import Dictionary, active, finite, packed, product
from interp.sparse.sparse_codes import SparseCodes, tokens_a_chunk

BASE_ONLY, SHARED, TUNED_ONLY = "base-only", "shared", "tuned-only"


@dataclass(frozen=True)
class Crosscoder:
    """A dictionary over the residuals of several models (base, tuned) at one hook point."""

    w_enc: Float[torch.Tensor, "n_models d_in latents"]
    b_enc: Float[torch.Tensor, " latents"]
    w_dec: Float[torch.Tensor, "latents n_models d_in"]
    b_dec: Float[torch.Tensor, "n_models d_in"]
    architecture: str
    k: int | None
    """Active latents a token, for TopK."""
    threshold: Float[torch.Tensor, " latents"] | None
    """Per-latent threshold, for JumpReLU."""
    hook_point: str
    models: tuple[str, ...]
    """What it was trained on, in the order base, tuned."""

    @property
    def n_models(self) -> int:
        """Number of models it reads."""
        return int(self.w_enc.shape[0])

    @property
    def d_in(self) -> int:
        """Width of each model's residuals."""
        return int(self.w_enc.shape[1])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.w_enc.shape[2])

    @torch.inference_mode()
    def encode(self, pair: Float[torch.Tensor, "tokens n_models d_in"], chunk: int | None = None) -> SparseCodes:
        """Active latents of each token, from the sum over models of `x_m W_enc_m`, plus `b_enc`; `chunk` as in `Dictionary`.

        Raises `DictionaryError` for residuals of another shape or values that are not finite.
        """
        if pair.ndim != 3 or pair.shape[1:] != self.b_dec.shape:
            wanted = f"[tokens, {self.n_models} models, {self.d_in}]"
            raise DictionaryError(f"Residuals of shape {list(pair.shape)} do not fit a crosscoder that reads {wanted}.")
        return SparseCodes.joined([
            self._encode(finite(part).flatten(1)) for part in pair.split(chunk or tokens_a_chunk(self.n_latents))
        ])  # fmt: skip

    def _encode(self, x: torch.Tensor) -> SparseCodes:
        pre = product(x, self.w_enc.flatten(0, 1), self.b_enc, self._packed)
        return active(pre, self.k, torch.zeros_like(self.b_enc) if self.threshold is None else self.threshold.clamp(min=0.0))

    @cached_property
    def _packed(self) -> torch.Tensor | None:
        return packed(self.w_enc.flatten(0, 1))

    def decode(self, codes: SparseCodes) -> Float[torch.Tensor, "tokens n_models d_in"]:
        """Reconstruction of every model's residuals."""
        return codes.weighted_rows(self.w_dec.flatten(1)).unflatten(1, (self.n_models, self.d_in)) + self.b_dec

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

    def of_model(self, index: int) -> Dictionary:
        """One model's encoder and decoder as a dictionary: its rows are the directions to steer that model with.

        Its activations see one model only and are not the crosscoder's, which sum over models: encode pairs for those.
        Raises `DictionaryError` for a model it does not have.
        """
        if not 0 <= index < self.n_models:
            raise DictionaryError(f"The crosscoder has models 0 to {self.n_models - 1}, not {index}.")
        return Dictionary(
            w_enc=self.w_enc[index],
            b_enc=self.b_enc,
            w_dec=self.w_dec[:, index].contiguous(),
            b_dec=self.b_dec[index],
            architecture=self.architecture.removeprefix("crosscoder_"),
            k=self.k,
            threshold=self.threshold,
            subtract_b_dec=False,
            hook_point=self.hook_point,
            source=self.models[index] if self.models else "",
        )


def load_crosscoder(folder: Path, device: torch.device | str = "cpu") -> Crosscoder:
    """Read a crosscoder from a folder; raises `DictionaryError` naming what is missing or not supported."""
    weights, config = read_dictionary(folder)
    architecture = config["architecture"]
    if architecture not in CROSSCODERS:
        raise DictionaryError(f"{folder} is an SAE ({architecture}), not a crosscoder. Load it with load_dictionary.")
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    return Crosscoder(
        w_enc=weights["W_enc"],
        b_enc=weights["b_enc"],
        w_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        architecture=architecture,
        k=config["k"] if architecture == "crosscoder_topk" else None,
        threshold=weights["threshold"] if architecture == "crosscoder_jumprelu" else None,
        hook_point=str(config["metadata"]["hook_name"]),
        models=tuple(config["metadata"].get("models") or ()),
    )
