"""What all dictionaries share: weights, decoder norms, dedicated latents, the loss for dead latents, folding for export.

A dictionary works on normalised rows `[tokens, width]`. For a crosscoder the residuals of its models stand side by side in a row
(`width = n_models × d_in`), so that one dictionary reads and writes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import nn

from interp.core.errors import TrainingError
from interp.sparse import Codes, Rule, TopK, decode, encode
from sae_training.config import AuxKConfig, CoderConfig
from sae_training.normalise import Layout, Normaliser

FIRST_NORM = 0.1
"""Norm of fresh rows that are free to grow. The smaller they are, the further Adam's first steps turn them."""
ROWS_AT_A_TIME = 4096
"""Decoder rows handled together: few enough that what is made of them stays in the cache."""
Config = TypeVar("Config", bound=CoderConfig)


@dataclass(frozen=True)
class StepContext:
    """What a dictionary must know of its training to compute a step's losses."""

    dead: Int[torch.Tensor, " some"] | None = None
    """Latents that have not fired for long, if there are any."""
    ramp: float = 1.0
    """Share of its full weight that a sparsity penalty has by now."""
    mean: Callable[[torch.Tensor], torch.Tensor] = lambda value: value
    """Mean of a number over all data-parallel processes."""
    all_gather: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Gathers values of all data-parallel processes."""
    tokens: int | None = None
    """Tokens of the global batch, where it is more than what this process sees."""


@dataclass(frozen=True)
class Outcome:
    """One batch seen by a dictionary."""

    losses: dict[str, Float[torch.Tensor, ""]]
    """Summands of the loss. Squared errors are in units of the input's variance, so that those of a batch's parts can be averaged."""
    codes: Codes
    reconstruction: Float[torch.Tensor, "tokens width"]


class SparseCoder(nn.Module, Generic[Config]):
    """Base of all architectures: `outcome` gives the losses of a batch, `thresholds` how the saved dictionary selects."""

    kind: str
    """Name of the architecture that it is saved as: `topk`, `jumprelu`, `gated` or `standard`."""
    k: int | None = None
    """For a dictionary saved as TopK: active latents of each token."""

    def __init__(self, config: Config, layout: Layout, generator: torch.Generator) -> None:
        """Raises `TrainingError` for dedicated latents that there is no room or no second model for."""
        super().__init__()
        dedicated = config.base_only + config.tuned_only
        if dedicated and layout.n_models != 2:
            raise TrainingError("base_only and tuned_only need residuals of two models: train a crosscoder, or set both to 0.")
        if dedicated >= config.n_latents:
            raise TrainingError(f"base_only and tuned_only make {dedicated} latents, of {config.n_latents} in all. Lower them.")
        self.layout, self.config = layout, config
        rows = torch.randn(config.n_latents, layout.width, generator=generator)
        for foreign in self._foreign(rows):
            foreign.zero_()
        rows *= (1.0 if config.decoder_norm == "unit" else FIRST_NORM) / rows.norm(dim=-1, keepdim=True)
        self.encoder = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(config.n_latents))
        self.decoder = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(layout.width))

    def outcome(self, x: Float[torch.Tensor, "tokens width"], context: StepContext) -> Outcome:
        """Codes, reconstruction and losses of normalised rows."""
        raise NotImplementedError

    def thresholds(self) -> Float[torch.Tensor, " latents"] | None:
        """For a dictionary saved as JumpReLU: the pre-activation above which each latent is active."""
        return None

    def preactivations(self, x: Float[torch.Tensor, "tokens width"], rule: Rule, among: Int[torch.Tensor, " some"] | None = None) -> Codes:
        """Pre-activations at the latents that `rule` chooses, `among` some if given."""
        return encode(x, self.encoder, self.encoder_bias, rule, self.decoder_bias, among)

    def decode(self, codes: Codes) -> Float[torch.Tensor, "tokens width"]:
        """Reconstruction of normalised rows."""
        return decode(codes, self.decoder) + self.decoder_bias

    def l1(self, codes: Codes) -> Float[torch.Tensor, ""]:
        """Mean over tokens of Σ value × decoder norm, in units of a row's typical norm."""
        weighted = codes.values.sum() if self._norms_are_one else codes.sums() @ self.norms()
        return weighted / (codes.n_tokens * self.layout.width**0.5)

    def aux_loss(
        self, x: Float[torch.Tensor, "tokens width"], error: Float[torch.Tensor, "tokens width"], context: StepContext
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """Revives dead latents: they alone reconstruct what the others leave over (Gao et al. 2024, arXiv:2406.04093, appendix A.2).

        The loss by name, or nothing where no latent is dead. It reaches encoder, bias and decoder of dead latents.
        """
        config = self.config
        assert isinstance(config, AuxKConfig)
        wanted = self.layout.width // 2 if config.aux_k is None else config.aux_k
        if context.dead is None or not len(context.dead) or not wanted:
            return {}
        codes = self.preactivations(x, TopK(min(wanted, len(context.dead))), among=context.dead)
        codes = codes.with_values(torch.relu(codes.values))
        left_over = error.detach()
        unit = context.mean(left_over.square().mean()).clamp(min=torch.finfo(left_over.dtype).tiny)
        return {"aux": config.aux_weight * ((left_over - decode(codes, self.decoder)).square().mean() / unit)}

    @property
    def _norms_are_one(self) -> bool:
        return self.layout.n_models == 1 and self.config.decoder_norm == "unit"

    def norms(self) -> Float[torch.Tensor, " latents"]:
        """Each decoder row's norm, summed over models: how much one unit of activation writes (Lindsey et al. 2024, crosscoders)."""
        return rearrange(self.decoder, "latents (models d_in) -> latents models d_in", models=self.layout.n_models).norm(dim=-1).sum(-1)

    @torch.no_grad()
    def scale(self) -> Float[torch.Tensor, " latents"] | None:
        """What a rule compares pre-activations by: decoder norms, None where all are one."""
        return None if self._norms_are_one else self.norms()

    @torch.no_grad()
    def after_backward(self) -> None:
        """Correct the gradients: dedicated latents stay dedicated, and decoder rows get no pull along themselves."""
        for parameter in (self.encoder, self.decoder):
            for foreign in self._foreign(parameter.grad):
                foreign.zero_()
        if self.config.decoder_norm == "unit" and self.decoder.grad is not None:
            for gradient, rows in zip(self.decoder.grad.split(ROWS_AT_A_TIME), self.decoder.split(ROWS_AT_A_TIME), strict=True):
                gradient.addcmul_(rows, (gradient * rows).sum(-1, keepdim=True), value=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring decoder rows back to norm one, where they are kept there."""
        if self.config.decoder_norm == "unit":
            for rows in self.decoder.split(ROWS_AT_A_TIME):
                rows.div_(rows.norm(dim=-1, keepdim=True))

    def _foreign(self, rows: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """The parts of `rows` that dedicated latents must not use, as views."""
        config, d_in = self.config, self.layout.d_in
        if rows is not None and config.base_only:
            yield rows[: config.base_only, d_in:]
        if rows is not None and config.tuned_only:
            yield rows[config.base_only : config.base_only + config.tuned_only, :d_in]

    @torch.no_grad()
    def folded(self, normaliser: Normaliser) -> dict[str, torch.Tensor]:
        """Weights in sae-lens' naming that act on raw residuals: normalisation and decoder norms folded in.

        Each latent's decoder norms, summed over models, are one. A crosscoder's weights have an axis for the models.
        """
        norms = self.norms()
        unit = torch.where(norms > 0, norms, 1.0) / normaliser.scale  # of an activation, in raw residuals
        mean = normaliser.mean.flatten() + self.decoder_bias / normaliser.scale
        weights = {
            "W_enc": (self.encoder * (unit * normaliser.scale)[:, None]).T,
            "b_enc": self.encoder_bias * unit - (self.encoder @ mean) * unit * normaliser.scale,
            "W_dec": self.decoder / (unit * normaliser.scale)[:, None],
            "b_dec": mean,
        }
        thresholds = self.thresholds()
        if thresholds is not None:
            weights["threshold"] = thresholds * unit
        if self.layout.n_models > 1:
            shape = (self.layout.n_models, self.layout.d_in)
            for name, axis in (("W_enc", 0), ("W_dec", 1), ("b_dec", 0)):
                weights[name] = weights[name].unflatten(axis, shape)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}

    def _check_k(self, k: int) -> None:
        if k > self.config.n_latents:
            raise TrainingError(f"k is {k}, more than the {self.config.n_latents} latents. Lower k, or raise n_latents.")
