"""What the diff, the edits and the reports need of a dictionary, be it an SAE or a crosscoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.sparse import Codes

BASE, TUNED = 0, -1
"""Places of the base and the tuned model among those whose residuals stand side by side."""


class Dictionary(Protocol):
    """Latents with an activation and a decoder row in each model: an `SAE` or a `Crosscoder`; `load_dictionary` opens either.

    An SAE reads one model at a time and has the same rows in all. A crosscoder reads its models at once, on the same tokens; its
    latents have one activation for all models, and a row in each.
    """

    @property
    def architecture(self) -> str:
        """How latents are chosen, in the word of the file: `topk`, `jumprelu`, `crosscoder_topk`, …"""

    @property
    def hook_point(self) -> str:
        """Where it reads; empty where the file does not say."""

    @property
    def reads(self) -> str:
        """`difference` when it reads tuned minus base residuals, else empty."""

    @property
    def k(self) -> int | None:
        """Active latents a token, for TopK."""

    @property
    def d_in(self) -> int:
        """Width of a model's residuals."""

    @property
    def n_latents(self) -> int:
        """Number of latents."""

    @property
    def n_models(self) -> int:
        """Models that one code reads: 1, for a crosscoder more."""

    @property
    def content(self) -> str:
        """Hash of all that it computes, and of where it reads; the same after saving and loading."""

    def encode_models(self, residuals: Float[torch.Tensor, "tokens models d_in"]) -> list[Codes]:
        """Each model's latent activations. An SAE takes any number of models, a crosscoder its own, base first."""

    def decode_model(self, codes: Codes, model: int = TUNED) -> Float[torch.Tensor, "tokens d_in"]:
        """Reconstruction of a model's residuals."""

    def decoder_rows(self, model: int = TUNED) -> Float[torch.Tensor, "latents d_in"]:
        """What a unit of each latent's activation writes into a model's residuals."""

    def decoder_bias(self, model: int = TUNED) -> Float[torch.Tensor, " d_in"]:
        """What the reconstruction of a model's residuals is without any latent."""

    def directions(self, latents: list[int], model: int = TUNED) -> Float[torch.Tensor, "n d_in"]:
        """A model's decoder rows of `latents`, at norm one; raises `DictionaryError` for latents it does not have, or a zero row."""

    def relative_norms(self) -> Float[torch.Tensor, " latents"] | None:
        """Each latent's share of the tuned model's row in the norms of both; None for an SAE."""

    def at(self, hook_point: str) -> Dictionary:
        """The same dictionary, said to read at `hook_point`."""


def unit_rows(rows: Float[torch.Tensor, "latents d_in"], latents: list[int]) -> Float[torch.Tensor, "n d_in"]:
    """Rows of `latents` at norm one; raises `DictionaryError` for latents there are not, and for rows that are zero."""
    bad = [latent for latent in latents if not 0 <= latent < len(rows)]
    if bad:
        raise DictionaryError(f"The dictionary has latents 0 to {len(rows) - 1}, not {bad}.")
    norms = rows[latents].norm(dim=-1, keepdim=True)
    if empty := [latent for latent, norm in zip(latents, norms.flatten().tolist(), strict=True) if norm == 0]:
        raise DictionaryError(f"The decoder rows of the latents {empty} are zero in this model, so they have no direction. Choose others.")
    return rows[latents] / norms


def content_hash(settings: tuple[Any, ...], tensors: Mapping[str, torch.Tensor | None]) -> str:
    """Hash of settings and weights, for `Dictionary.content`."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in tensors.items():
        if tensor is not None:
            digest.update(f"|{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().float().cpu().numpy().data)
    return digest.hexdigest()
