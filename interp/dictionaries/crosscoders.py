"""Crosscoders: one dictionary that reads the residuals of a base and a tuned model at once, and writes both.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing", transformer-circuits.pub/2024/crosscoders.
A latent has one activation, and in each model a decoder row of its own: where one of its rows is (nearly) zero, the latent
belongs to the other model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.dictionaries.encoder import Encoder
from interp.dictionaries.protocol import TUNED, content_hash, unit_rows
from interp.sparse import Codes, decode

BASE_ONLY, SHARED, TUNED_ONLY = "base-only", "shared", "tuned-only"


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """A dictionary over the residuals of several models (base, tuned) at one hook point; see `Dictionary`."""

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

    reads = ""

    def encode(self, pair: Float[torch.Tensor, "tokens n_models d_in"], chunk: int | None = None) -> Codes:
        """Active latents of each token, from the sum over models of `x_m W_enc_m`, plus `b_enc`; `chunk` as in `Encoder`.

        Raises `DictionaryError` for residuals of another shape or values that are not finite.
        """
        if pair.ndim != 3 or pair.shape[1:] != self.b_dec.shape:
            wanted = f"[tokens, {self.n_models} models, {self.d_in}]"
            raise DictionaryError(f"Residuals of shape {list(pair.shape)} do not fit a crosscoder that reads {wanted}.")
        return self._encoder(rearrange(pair, "tokens models d_in -> tokens (models d_in)"), chunk)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(rearrange(self.w_enc, "models d_in latents -> (models d_in) latents"), self.b_enc, self.k, self.threshold)

    def decode(self, codes: Codes) -> Float[torch.Tensor, "tokens n_models d_in"]:
        """Reconstruction of every model's residuals."""
        flat = decode(codes, rearrange(self.w_dec, "latents models d_in -> latents (models d_in)"))
        return rearrange(flat, "tokens (models d_in) -> tokens models d_in", models=self.n_models) + self.b_dec

    def encode_models(self, residuals: Float[torch.Tensor, "tokens models d_in"]) -> list[Codes]:
        """See `Dictionary`: one code for all models."""
        return [self.encode(residuals)] * self.n_models

    def decode_model(self, codes: Codes, model: int = TUNED) -> Float[torch.Tensor, "tokens d_in"]:
        """See `Dictionary`."""
        return decode(codes, self.decoder_rows(model)) + self.b_dec[model]

    def decoder_rows(self, model: int = TUNED) -> Float[torch.Tensor, "latents d_in"]:
        """See `Dictionary`."""
        return self._rows[model]

    @cached_property
    def _rows(self) -> Float[torch.Tensor, "n_models latents d_in"]:
        return rearrange(self.w_dec, "latents models d_in -> models latents d_in").contiguous()

    def decoder_bias(self, model: int = TUNED) -> Float[torch.Tensor, " d_in"]:
        """See `Dictionary`."""
        return self.b_dec[model]

    def directions(self, latents: list[int], model: int = TUNED) -> Float[torch.Tensor, "n d_in"]:
        """See `Dictionary`."""
        return unit_rows(self.decoder_rows(model), latents)

    def at(self, hook_point: str) -> Crosscoder:
        """See `Dictionary`."""
        return replace(self, hook_point=hook_point)

    @cached_property
    def content(self) -> str:
        """See `Dictionary`."""
        weights = {"w_enc": self.w_enc, "b_enc": self.b_enc, "w_dec": self.w_dec, "b_dec": self.b_dec, "threshold": self.threshold}
        return content_hash((self.architecture, self.k, self.hook_point), weights)

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


def crosscoder_from(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Crosscoder:
    """A crosscoder from checked weights and config."""
    architecture = config["architecture"]
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
