"""Sparse autoencoders of all of sae-lens' plain architectures, on one model's residuals. Their files are those of `files.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.files import dictionary_config, write_dictionary


@dataclass(frozen=True, eq=False)
class SAE(Dictionary):
    """A sparse autoencoder at one hook point, with weights W_enc [d_in, latents] and W_dec [latents, d_in]."""

    source: str = ""
    """The model it was trained on, where the file says so."""

    def to(self, device: torch.device) -> SAE:
        """The same on another device; a copy only where it is not there yet."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor) and not name.startswith("_")}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return self if all(moved[name] is tensors[name] for name in moved) else replace(self, **moved)

    def some_latents(self, latents: torch.Tensor) -> SAE:
        """The SAE of these latents alone; for TopK they would compete with fewer."""
        per_latent = {name: getattr(self, name) for name in ("b_enc", "w_dec", "threshold", "r_mag", "b_mag")}
        chosen: dict[str, Any] = {name: weight[latents] for name, weight in per_latent.items() if weight is not None}
        return replace(self, w_enc=self.w_enc.index_select(1, latents), **chosen)

    def save(self, folder: Path, made: Mapping[str, Any] | None = None) -> None:
        """Write it as sae-lens does; `made` says how it was made. Raises `ArtifactError` when it cannot be written."""
        b_enc = "b_enc" if self.r_mag is None else "b_gate"
        weights = {"W_enc": self.w_enc, "W_dec": self.w_dec, "b_dec": self.b_dec, b_enc: self.b_enc}
        weights |= {name: weight for name in ("r_mag", "b_mag", "threshold") if (weight := getattr(self, name)) is not None}
        config = dictionary_config(self.architecture, self.d_in, self.n_latents, self.hook_point, [self.source], self.k, made, self.reads)
        write_dictionary(folder, weights, config | {"apply_b_dec_to_input": self.subtract_b_dec})
