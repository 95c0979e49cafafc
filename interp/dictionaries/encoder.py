"""From residuals to codes: pre-activations a chunk of tokens at a time, of which only the active latents are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float

from interp.core.errors import DictionaryError
from interp.core.tensors import all_finite
from interp.models.cpu.packed_linear import apply_packed, can_pack, pack_weight
from interp.sparse import Above, Codes, Rule, TopK
from interp.sparse.autograd import kernels_for

CHUNK_ENTRIES = 2**25
"""Pre-activations made at a time: 128 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder of an SAE, or of a crosscoder on rows in which the residuals of its models stand side by side."""

    weight: Float[torch.Tensor, "width latents"]
    bias: Float[torch.Tensor, " latents"]
    """Of a gated one, the gate's."""
    k: int | None = None
    """Active latents a token, for TopK."""
    threshold: Float[torch.Tensor, " latents"] | None = None
    """Pre-activation above which each latent is active, for JumpReLU (and what BatchTopK is saved as)."""
    centre: Float[torch.Tensor, " width"] | None = None
    """Subtracted from every row."""
    r_mag: Float[torch.Tensor, " latents"] | None = None
    b_mag: Float[torch.Tensor, " latents"] | None = None

    @torch.inference_mode()
    def __call__(self, rows: Float[torch.Tensor, "tokens width"], chunk: int | None = None) -> Codes:
        """Active latents of each row, `chunk` rows at a time (default: as many as 128 MiB of pre-activations hold).

        TopK: the k largest pre-activations, rectified. Standard: the positive ones; JumpReLU: those above the threshold too
        (Rajamanoharan et al. 2024, arXiv:2407.14435). Gated: where the gate `x W_enc + b_gate` is positive, the rectified
        magnitude `exp(r_mag) (x W_enc) + b_mag` (Rajamanoharan et al. 2024, arXiv:2404.16014).
        Raises `DictionaryError` for values that are not finite.
        """
        shape = (len(rows), len(self.bias))
        step = chunk or max(1, min(4096, CHUNK_ENTRIES // max(1, len(self.bias))))
        codes = self._rule.select(kernels_for(rows.device), lambda: map(self._preactivations, rows.split(step)), shape)
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
            return Above(-self.bias)  # what is compared are products without the gate's bias
        return Above(torch.zeros_like(self.bias) if self.threshold is None else self.threshold.clamp(min=0.0))

    def _preactivations(self, rows: Float[torch.Tensor, "chunk width"]) -> Float[torch.Tensor, "chunk latents"]:
        if not all_finite(rows):
            raise DictionaryError("The residuals hold values that are not finite. Run the model in float32 or bfloat16.")
        x = rows.float() if self.centre is None else rows.float() - self.centre
        bias = self.bias if self.r_mag is None else None
        if self._packed is not None:
            return apply_packed(x, self._packed, bias)
        return x @ self.weight if bias is None else torch.addmm(bias, x, self.weight)

    @cached_property
    def _packed(self) -> torch.Tensor | None:
        """A copy of the weight in oneDNN's layout, about twice as fast on a CPU; None where it cannot be had."""
        return pack_weight(self.weight.T) if can_pack(self.weight) else None
