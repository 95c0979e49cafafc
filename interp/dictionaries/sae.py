"""Sparse autoencoders of all of sae-lens' plain architectures, on one model's residuals. Their files are those of `files.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.dictionaries.encoder import Encoder
from interp.dictionaries.files import sae_config, write_dictionary
from interp.dictionaries.protocol import TUNED, content_hash, unit_rows
from interp.sparse import Codes, decode

PER_LATENT = {"w_enc": 1, "b_enc": 0, "w_dec": 0, "threshold": 0, "r_mag": 0, "b_mag": 0}
"""Weights with an axis of latents, and which axis it is."""


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder at one hook point; see `Dictionary` for what it has in common with a crosscoder."""

    w_enc: Float[torch.Tensor, "d_in latents"]
    b_enc: Float[torch.Tensor, " latents"]
    """Bias of the encoder; of a gated one, of its gate."""
    w_dec: Float[torch.Tensor, "latents d_in"]
    b_dec: Float[torch.Tensor, " d_in"]
    architecture: str
    k: int | None
    """Active latents a token, for TopK."""
    threshold: Float[torch.Tensor, " latents"] | None
    """Per-latent threshold, for JumpReLU."""
    subtract_b_dec: bool
    """Whether the encoder reads `x - b_dec`."""
    hook_point: str
    r_mag: Float[torch.Tensor, " latents"] | None = None
    """Logarithm of each latent's magnitude over its gate, for gated ones."""
    b_mag: Float[torch.Tensor, " latents"] | None = None
    """Bias of the magnitude, for gated ones."""
    reads: str = ""
    """`difference` when it reads tuned minus base residuals in place of one model's."""
    source: str = ""
    """The model it was trained on, where the file says so."""
    n_models = 1

    @property
    def d_in(self) -> int:
        """Width of the residuals it reads."""
        return int(self.w_enc.shape[0])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.w_enc.shape[1])

    def encode(self, residuals: Float[torch.Tensor, "tokens d_in"], chunk: int | None = None) -> Codes:
        """Active latents of each token, `chunk` tokens at a time; see `Encoder`.

        Raises `DictionaryError` for residuals of another width or values that are not finite.
        """
        if residuals.shape[-1] != self.d_in:
            raise DictionaryError(f"Residuals of width {residuals.shape[-1]} do not fit a dictionary of width {self.d_in}.")
        return self._encoder(residuals, chunk)

    @cached_property
    def _encoder(self) -> Encoder:
        centre = self.b_dec if self.subtract_b_dec else None
        return Encoder(self.w_enc, self.b_enc, self.k, self.threshold, centre, self.r_mag, self.b_mag)

    def decode(self, codes: Codes) -> Float[torch.Tensor, "tokens d_in"]:
        """Reconstruction of the residuals."""
        return decode(codes, self.w_dec) + self.b_dec

    def encode_models(self, residuals: Float[torch.Tensor, "tokens models d_in"]) -> list[Codes]:
        """See `Dictionary`: each model by itself."""
        tokens, models, _ = residuals.shape
        codes = self.encode(residuals.transpose(0, 1).flatten(0, 1))
        return [codes] if models == 1 else [codes.of_tokens(m * tokens, (m + 1) * tokens) for m in range(models)]

    def decode_model(self, codes: Codes, model: int = TUNED) -> Float[torch.Tensor, "tokens d_in"]:
        """See `Dictionary`: alike for every model."""
        return self.decode(codes)

    def decoder_rows(self, model: int = TUNED) -> Float[torch.Tensor, "latents d_in"]:
        """See `Dictionary`: alike for every model."""
        return self.w_dec

    def decoder_bias(self, model: int = TUNED) -> Float[torch.Tensor, " d_in"]:
        """See `Dictionary`: alike for every model."""
        return self.b_dec

    def directions(self, latents: list[int], model: int = TUNED) -> Float[torch.Tensor, "n d_in"]:
        """See `Dictionary`."""
        return unit_rows(self.w_dec, latents)

    def relative_norms(self) -> None:
        """See `Dictionary`: there is one row for all models."""

    def at(self, hook_point: str) -> SAE:
        """See `Dictionary`."""
        return replace(self, hook_point=hook_point)

    def to(self, device: torch.device) -> SAE:
        """The same on another device; a copy only where it is not there yet."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return self if all(moved[name] is tensors[name] for name in moved) else replace(self, **moved)

    def some_latents(self, latents: torch.Tensor) -> SAE:
        """The SAE of these latents alone; for TopK they would compete with fewer."""
        weights = {name: tensor for name in PER_LATENT if (tensor := getattr(self, name)) is not None}
        chosen: dict[str, Any] = {name: tensor.index_select(PER_LATENT[name], latents) for name, tensor in weights.items()}
        return replace(self, **chosen)

    @cached_property
    def content(self) -> str:
        """See `Dictionary`."""
        settings = (self.architecture, self.k, self.subtract_b_dec, self.hook_point)
        return content_hash(settings, {name: getattr(self, name) for name in (*PER_LATENT, "b_dec")})

    def as_files(self, made: Mapping[str, Any] | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Weights and config in sae-lens' naming; `made` says how it was made."""
        weights = {"W_enc": self.w_enc, "W_dec": self.w_dec, "b_dec": self.b_dec}
        if self.r_mag is not None and self.b_mag is not None:
            weights |= {"b_gate": self.b_enc, "r_mag": self.r_mag, "b_mag": self.b_mag}
        else:
            weights |= {"b_enc": self.b_enc}
        if self.threshold is not None:
            weights |= {"threshold": self.threshold}
        config = sae_config(
            self.architecture, self.d_in, self.n_latents, self.hook_point, self.source, self.k, made, reads=self.reads or None
        )
        return weights, config | {"apply_b_dec_to_input": self.subtract_b_dec}

    def save(self, folder: Path, made: Mapping[str, Any] | None = None) -> None:
        """Write it as sae-lens does; raises `DictionaryError` when it cannot be written."""
        write_dictionary(folder, *self.as_files(made))


def sae_from(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> SAE:
    """An SAE from checked weights and config in sae-lens' naming."""
    architecture, gated = config["architecture"], config["architecture"] == "gated"
    w_enc, b_enc, w_dec = weights["W_enc"], weights["b_gate" if gated else "b_enc"], weights["W_dec"]
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False):  # a setting of TopK alone
        norms = w_dec.norm(dim=-1).clamp(min=1e-8)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    return SAE(
        w_enc=w_enc,
        b_enc=b_enc,
        w_dec=w_dec,
        b_dec=weights["b_dec"],
        architecture=architecture,
        k=config["k"] if architecture == "topk" else None,
        threshold=weights["threshold"] if architecture == "jumprelu" else None,
        subtract_b_dec=bool(config["apply_b_dec_to_input"]),
        hook_point=str(config["metadata"]["hook_name"]),
        r_mag=weights["r_mag"] if gated else None,
        b_mag=weights["b_mag"] if gated else None,
        reads=str(config["metadata"].get("reads") or ""),
        source=str(config["metadata"]["model_name"]),
    )
