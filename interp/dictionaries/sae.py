"""Dictionaries (sparse autoencoders) of all of sae-lens' plain architectures, encoding sparsely: only what is active is kept.

The files are those of `files.py`; a dictionary over two models at once is in `crosscoders.py`, one that is published under a name comes
through `pretrained.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.dictionaries.files import CROSSCODERS, dictionary_key, read_dictionary, sae_config, write_dictionary
from interp.models.cpu.packed_linear import apply_packed, can_pack, pack_weight
from interp.sparse.sparse_codes import SparseCodes, entries, starts_of, strongest, tokens_a_chunk

__all__ = ["Dictionary", "SparseCodes", "dictionary_from", "dictionary_key", "load_dictionary", "save_dictionary", "save_topk"]


@dataclass(frozen=True)
class Dictionary:
    """An SAE at one hook point."""

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

    @property
    def d_in(self) -> int:
        """Width of the residuals it reads."""
        return int(self.w_enc.shape[0])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.w_enc.shape[1])

    @torch.inference_mode()
    def encode(self, residuals: Float[torch.Tensor, "tokens d_in"], chunk: int | None = None) -> SparseCodes:
        """Active latents of each token, `chunk` tokens at a time (default: as many as 128 MiB of pre-activations hold).

        TopK: the k largest pre-activations, rectified. Standard: the positive ones; JumpReLU: those above the threshold too
        (Rajamanoharan et al. 2024, arXiv:2407.14435). Gated: where the gate `x W_enc + b_gate` is positive, the rectified
        magnitude `exp(r_mag) (x W_enc) + b_mag` (Rajamanoharan et al. 2024, arXiv:2404.16014).
        Raises `DictionaryError` for residuals of another width or values that are not finite.
        """
        if residuals.shape[-1] != self.d_in:
            raise DictionaryError(f"Residuals of width {residuals.shape[-1]} do not fit a dictionary of width {self.d_in}.")
        return SparseCodes.joined([
            self._encode(finite(part)) for part in residuals.split(chunk or tokens_a_chunk(self.n_latents))
        ])  # fmt: skip

    def _encode(self, x: torch.Tensor) -> SparseCodes:
        x = x - self.b_dec if self.subtract_b_dec else x
        if self.r_mag is not None and self.b_mag is not None:
            return self._encode_gated(product(x, self.w_enc, None, self._packed), self.r_mag, self.b_mag)
        pre = product(x, self.w_enc, self.b_enc, self._packed)
        return active(pre, self.k, torch.zeros_like(self.b_enc) if self.threshold is None else self.threshold.clamp(min=0.0))

    @cached_property
    def _packed(self) -> torch.Tensor | None:
        return packed(self.w_enc)

    def _encode_gated(self, pre: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor) -> SparseCodes:
        """Magnitudes are computed where the gate is open only."""
        open_ = active(pre, None, -self.b_enc)
        latents = open_.flat_indices
        magnitudes = open_.flat_values * r_mag.exp()[latents] + b_mag[latents]
        on = magnitudes > 0
        return SparseCodes(magnitudes[on], latents[on], starts_of(open_.tokens[on], len(pre)))

    def decode(self, codes: SparseCodes) -> Float[torch.Tensor, "tokens d_in"]:
        """Reconstruction of the residuals."""
        return codes.weighted_rows(self.w_dec) + self.b_dec

    def at(self, hook_point: str) -> Dictionary:
        """The same dictionary, said to read at `hook_point`."""
        return replace(self, hook_point=hook_point)

    def directions(self, latents: list[int]) -> Float[torch.Tensor, "n d_in"]:
        """Decoder rows of `latents`, scaled to norm one. Raises `DictionaryError` for a latent it does not have."""
        bad = [latent for latent in latents if not 0 <= latent < self.n_latents]
        if bad:
            raise DictionaryError(f"The dictionary has latents 0 to {self.n_latents - 1}, not {bad}.")
        rows = self.w_dec[latents]
        return rows / rows.norm(dim=-1, keepdim=True)

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


def finite(residuals: torch.Tensor) -> torch.Tensor:
    """`residuals` in float32; raises `DictionaryError` for values that are not finite, which would light up no latent at all."""
    if residuals.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(residuals))).all()):  # one pass: NaN is both extremes
        raise DictionaryError("The residuals hold values that are not finite. Run the model in float32 or bfloat16.")
    return residuals.float()


def packed(w_enc: Float[torch.Tensor, "d_in latents"]) -> torch.Tensor | None:
    """A copy of an encoder's weight in oneDNN's layout, about twice as fast on a CPU; None where it cannot be had."""
    return pack_weight(w_enc.T) if can_pack(w_enc) else None


def product(
    x: Float[torch.Tensor, "tokens d_in"],
    w_enc: Float[torch.Tensor, "d_in latents"],
    bias: Float[torch.Tensor, " latents"] | None,
    packed_weight: torch.Tensor | None,
) -> Float[torch.Tensor, "tokens latents"]:
    """Pre-activations `x W_enc + bias`, by `packed_weight` where there is one."""
    if packed_weight is not None:
        return apply_packed(x, packed_weight, bias)
    return x @ w_enc if bias is None else torch.addmm(bias, x, w_enc)


def active(pre: Float[torch.Tensor, "tokens latents"], k: int | None, bound: Float[torch.Tensor, " latents"]) -> SparseCodes:
    """The `k` largest pre-activations of each token, rectified; without k all that exceed their latent's `bound`."""
    if pre.device.type != "cpu":
        return entries(pre, pre > bound) if k is None else strongest(pre, k)
    from interp.sparse.cpu import KERNELS  # importing numba takes a moment

    if k is not None:
        values, latents = KERNELS.largest(pre, k)
        return SparseCodes.of_rows(torch.relu(values), latents.long())
    above, latents, per_token = KERNELS.above(pre, bound)
    return SparseCodes(above, latents.long(), torch.cat([per_token.new_zeros(1), per_token.cumsum(0)]))


def save_dictionary(folder: Path, dictionary: Dictionary, made: Mapping[str, Any] | None = None) -> None:
    """Write a dictionary as sae-lens does; raises `DictionaryError` when it cannot be written."""
    write_dictionary(folder, *dictionary.as_files(made))


def save_topk(folder: Path, weights: dict[str, torch.Tensor], k: int, hook_point: str, source: str) -> None:
    """Write a TopK dictionary as sae-lens does; `source` names the model it was trained on."""
    d_in, d_sae = weights["W_enc"].shape
    write_dictionary(folder, weights, sae_config("topk", d_in, d_sae, hook_point, source, k))


def load_dictionary(folder: Path, device: torch.device | str = "cpu") -> Dictionary:
    """Read a dictionary from a folder; raises `DictionaryError` naming what is missing or not supported."""
    weights, config = read_dictionary(folder)
    if config["architecture"] in CROSSCODERS:
        raise DictionaryError(f"{folder} is a crosscoder, which reads {config.get('n_models', 2)} models at once. Give an SAE of one.")
    return dictionary_from({name: tensor.to(device) for name, tensor in weights.items()}, config)


def dictionary_from(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Dictionary:
    """A dictionary from checked weights and config in sae-lens' naming."""
    architecture, gated = config["architecture"], config["architecture"] == "gated"
    w_enc, b_enc, w_dec = weights["W_enc"], weights["b_gate" if gated else "b_enc"], weights["W_dec"]
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False):  # a setting of TopK alone
        norms = w_dec.norm(dim=-1).clamp(min=1e-8)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    return Dictionary(
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
