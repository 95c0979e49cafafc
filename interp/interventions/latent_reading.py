"""What some latents of a dictionary do at given residuals, and no more work than that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float

from interp.dictionaries.sae import Dictionary


class LatentReader:
    """Activations of chosen latents by the dictionary's encoder.

    TopK latents compete with all others, so all are encoded; of the other architectures only the chosen columns are.
    """

    def __init__(self, dictionary: Dictionary, latents: Sequence[int], device: torch.device) -> None:
        self.n = len(latents)
        chosen = torch.tensor(latents)
        competing = dictionary.k is not None
        self.dictionary = _placed(dictionary if competing else _columns(dictionary, chosen), device)
        self.column = torch.full((self.dictionary.n_latents,), self.n)  # of latents that are not asked for: a column behind the others
        self.column[chosen if competing else torch.arange(self.n)] = torch.arange(self.n)
        self.column = self.column.to(device)

    def __call__(self, residuals: Float[torch.Tensor, "tokens d_in"]) -> Float[torch.Tensor, "tokens n"]:
        """Activations in float32; raises `DictionaryError` for values that are not finite."""
        codes = self.dictionary.encode(residuals)
        table = codes.flat_values.new_zeros(len(codes), self.n + 1)
        table[codes.tokens, self.column[codes.flat_indices]] = codes.flat_values
        return table[:, : self.n]


def _columns(dictionary: Dictionary, latents: torch.Tensor) -> Dictionary:
    """The dictionary of these latents alone."""
    return replace(
        dictionary,
        w_enc=dictionary.w_enc[:, latents],
        b_enc=dictionary.b_enc[latents],
        w_dec=dictionary.w_dec[latents],
        threshold=None if dictionary.threshold is None else dictionary.threshold[latents],
        r_mag=None if dictionary.r_mag is None else dictionary.r_mag[latents],
        b_mag=None if dictionary.b_mag is None else dictionary.b_mag[latents],
    )


def _placed(dictionary: Dictionary, device: torch.device) -> Dictionary:
    """The dictionary on `device`; a copy only where it is not there yet."""
    tensors = {field.name: getattr(dictionary, field.name) for field in fields(dictionary)}
    moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return dictionary if all(moved[name] is tensors[name] for name in moved) else replace(dictionary, **moved)
