"""What an SAE and a crosscoder have in common: weights, encoding and decoding, and rows and directions in each model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from einops import rearrange
from jaxtyping import Bool, Float

from interp.core.errors import DictionaryError
from interp.core.tensors import all_finite
from interp.models.activations import capture_batch
from interp.models.chats import TokenBatch
from interp.models.cpu.packed_linear import apply_packed, can_pack, pack_weight
from interp.models.language_model import LanguageModel
from interp.sparse import Above, Codes, Rule, TopK, decode
from interp.sparse.autograd import kernels_for

BASE, TUNED = 0, -1
"""Places of the base and the tuned model among those whose residuals stand side by side."""
CHUNK_ENTRIES = 2**25
"""Pre-activations made at a time: 128 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Latents with an activation and a decoder row in each model: an `SAE` or a `Crosscoder`; `load_dictionary` opens either.

    An SAE reads one model at a time and has the same rows in all; its weights have no axis of models. A crosscoder reads its models
    at once, on the same tokens; its latents have one activation for all models, and a row in each.
    """

    w_enc: Float[torch.Tensor, "*models d_in latents"]
    b_enc: Float[torch.Tensor, " latents"]
    """Bias of the encoder; of a gated one, of its gate."""
    w_dec: Float[torch.Tensor, "latents *models d_in"]
    b_dec: Float[torch.Tensor, "*models d_in"]
    architecture: str
    """How latents are chosen, in the word of the file: `topk`, `jumprelu`, `crosscoder_topk`, …"""
    k: int | None
    """Active latents a token, for TopK."""
    threshold: Float[torch.Tensor, " latents"] | None
    """Pre-activation above which each latent is active, for JumpReLU (and what BatchTopK is saved as)."""
    subtract_b_dec: bool
    """Whether the encoder reads `x - b_dec`."""
    hook_point: str
    """Where it reads; empty where the file does not say."""
    r_mag: Float[torch.Tensor, " latents"] | None = None
    """Logarithm of each latent's magnitude over its gate, for gated ones."""
    b_mag: Float[torch.Tensor, " latents"] | None = None
    """Bias of the magnitude, for gated ones."""
    reads: str = ""
    """`difference` when it reads tuned minus base residuals in place of one model's."""

    @property
    def d_in(self) -> int:
        """Width of a model's residuals."""
        return int(self.b_dec.shape[-1])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return len(self.b_enc)

    @property
    def joint(self) -> bool:
        """Whether one code is of several models: of a crosscoder's."""
        return self.b_dec.ndim == 2

    @property
    def n_models(self) -> int:
        """Models that one code reads: 1, for a crosscoder more."""
        return len(self.b_dec) if self.joint else 1

    @torch.inference_mode()
    def encode(self, residuals: Float[torch.Tensor, "tokens *models d_in"], chunk: int | None = None) -> Codes:
        """Active latents of each token, `chunk` tokens at a time (default: as many as 128 MiB of pre-activations hold).

        A crosscoder sums `x_m W_enc_m` over models. TopK: the k largest pre-activations, rectified. Standard: the positive ones;
        JumpReLU: those above the threshold too (Rajamanoharan et al. 2024, arXiv:2407.14435). Gated: where the gate `x W_enc + b_gate`
        is positive, the rectified magnitude `exp(r_mag) (x W_enc) + b_mag` (Rajamanoharan et al. 2024, arXiv:2404.16014).
        Raises `DictionaryError` for residuals of another shape or values that are not finite.
        """
        if residuals.shape[1:] != self.b_dec.shape:
            wanted = ", ".join(["tokens", *map(str, self.b_dec.shape)])
            raise DictionaryError(f"Residuals of shape {list(residuals.shape)} do not fit a dictionary that reads [{wanted}].")
        rows = rearrange(residuals, "tokens ... -> tokens (...)")
        step = chunk or max(1, min(4096, CHUNK_ENTRIES // max(1, self.n_latents)))
        codes = self._rule.select(kernels_for(rows.device), lambda: map(self._preactivations, rows.split(step)), len(rows))
        if self.r_mag is None or self.b_mag is None:
            return codes if self.k is None else codes.with_values(torch.relu(codes.values))
        latents = codes.latents.long()
        magnitudes = codes.values * self.r_mag.exp()[latents] + self.b_mag[latents]
        return codes.with_values(magnitudes).keep(magnitudes > 0)

    @property
    def _rule(self) -> Rule:
        if self.k is not None:
            return TopK(self.k)
        if self.r_mag is not None:
            return Above(-self.b_enc)  # what is compared are products without the gate's bias
        return Above(torch.zeros_like(self.b_enc) if self.threshold is None else self.threshold.clamp(min=0.0))

    def _preactivations(self, rows: Float[torch.Tensor, "chunk width"]) -> Float[torch.Tensor, "chunk latents"]:
        if not all_finite(rows):
            raise DictionaryError("The residuals hold values that are not finite. Run the model in float32 or bfloat16.")
        x = rows.float() - self.b_dec if self.subtract_b_dec else rows.float()
        bias = self.b_enc if self.r_mag is None else None
        if self._packed is not None:
            return apply_packed(x, self._packed, bias)
        return x @ self._joint_w_enc if bias is None else torch.addmm(bias, x, self._joint_w_enc)

    @cached_property
    def _joint_w_enc(self) -> Float[torch.Tensor, "width latents"]:
        return rearrange(self.w_enc, "... latents -> (...) latents")

    @cached_property
    def _packed(self) -> torch.Tensor | None:
        """A copy of the encoder in oneDNN's layout, about twice as fast on a CPU; None where it cannot be had."""
        return pack_weight(self._joint_w_enc.T) if can_pack(self._joint_w_enc) else None

    def decode(self, codes: Codes) -> Float[torch.Tensor, "tokens *models d_in"]:
        """Reconstruction of the residuals, a crosscoder's of every model."""
        flat = decode(codes, rearrange(self.w_dec, "latents ... -> latents (...)"))
        return flat.unflatten(1, self.b_dec.shape) + self.b_dec

    def encode_models(self, residuals: Float[torch.Tensor, "tokens models d_in"]) -> list[Codes]:
        """Each model's latent activations. An SAE takes any number of models, a crosscoder its own, base first."""
        if self.joint:
            return [self.encode(residuals)] * self.n_models
        tokens, models, _ = residuals.shape
        codes = self.encode(rearrange(residuals, "tokens models d_in -> (models tokens) d_in"))
        return [codes] if models == 1 else [codes.of_tokens(m * tokens, (m + 1) * tokens) for m in range(models)]

    def decode_model(self, codes: Codes, model: int = TUNED) -> Float[torch.Tensor, "tokens d_in"]:
        """Reconstruction of a model's residuals."""
        return decode(codes, self.decoder_rows(model)) + self.decoder_bias(model)

    def decoder_rows(self, model: int = TUNED) -> Float[torch.Tensor, "latents d_in"]:
        """What a unit of each latent's activation writes into a model's residuals."""
        return self._rows_of_models[model] if self.joint else self.w_dec

    @cached_property
    def _rows_of_models(self) -> Float[torch.Tensor, "models latents d_in"]:
        return rearrange(self.w_dec, "latents models d_in -> models latents d_in").contiguous()

    def decoder_bias(self, model: int = TUNED) -> Float[torch.Tensor, " d_in"]:
        """What the reconstruction of a model's residuals is without any latent."""
        return self.b_dec[model] if self.joint else self.b_dec

    def directions(self, latents: list[int], model: int = TUNED) -> Float[torch.Tensor, "n d_in"]:
        """A model's decoder rows of `latents`, at norm one; raises `DictionaryError` for latents it does not have, or a zero row."""
        bad = [latent for latent in latents if not 0 <= latent < self.n_latents]
        if bad:
            raise DictionaryError(f"The dictionary has latents 0 to {self.n_latents - 1}, not {bad}.")
        rows = self.decoder_rows(model)[latents]
        norms = rows.norm(dim=-1, keepdim=True)
        if empty := [latent for latent, norm in zip(latents, norms.flatten().tolist(), strict=True) if norm == 0]:
            raise DictionaryError(
                f"The decoder rows of the latents {empty} are zero in this model, so they have no direction. Choose others."
            )
        return rows / norms

    def relative_norms(self) -> Float[torch.Tensor, " latents"] | None:
        """Each latent's share of the tuned model's row in the norms of both; None for an SAE."""
        return None

    def at(self, hook_point: str) -> Self:
        """The same dictionary, said to read at `hook_point`."""
        return replace(self, hook_point=hook_point)

    @cached_property
    def content(self) -> str:
        """Hash of all that it computes, and of where it reads; the same after saving and loading."""
        digest = hashlib.sha256(repr((self.architecture, self.k, self.subtract_b_dec, self.hook_point)).encode())
        for name in ("w_enc", "b_enc", "w_dec", "threshold", "r_mag", "b_mag", "b_dec"):
            if (tensor := getattr(self, name)) is not None:
                digest.update(f"|{name} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().float().cpu().numpy().data)
        return digest.hexdigest()

    def residuals_of(
        self,
        models: Sequence[LanguageModel],
        which: int,
        batch: TokenBatch,
        rows: Sequence[int],
        chosen: Bool[torch.Tensor, "batch position"],
    ) -> Float[torch.Tensor, "tokens models d_in"]:
        """Residuals at the `chosen` tokens, for `encode_models`: of model `which` alone, or of all that a crosscoder reads.

        Raises `DictionaryError` for a crosscoder of another number of models.
        """
        if self.n_models == 1:
            models = [models[which]]
        elif self.n_models != len(models):
            raise DictionaryError(f"The crosscoder reads {self.n_models} models, and there are {len(models)}. Give base and tuned model.")
        point = self.hook_point
        return torch.stack([capture_batch(model, batch, [point], rows).residuals[point][chosen] for model in models], dim=1)
