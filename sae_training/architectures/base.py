"""What all dictionaries share: weights, decoder norms, dedicated latents, folding for export.

A dictionary works on normalised rows `[tokens, width]`. For a crosscoder the residuals of its models stand side by side in a row
(`width = n_models × d_in`), so that one dictionary reads and writes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn

from interp.core.errors import TrainingError
from interp.sparse import Codes, decode
from sae_training.config import CoderConfig

FIRST_NORM = 0.1
"""Norm of fresh rows that are free to grow. The smaller they are, the further Adam's first steps turn them."""
ROWS_AT_A_TIME = 4096
"""Decoder rows handled together: few enough that what is made of them stays in the cache."""


@dataclass(frozen=True)
class Layout:
    """How a row is made up."""

    d_in: int
    n_models: int = 1

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.d_in * self.n_models


@dataclass(frozen=True)
class Circumstances:
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
    """Summands of the loss, in units of the input's variance."""
    codes: Codes
    reconstruction: Float[torch.Tensor, "tokens width"]


@dataclass(frozen=True)
class Normaliser:
    """Brings residuals to mean zero and a mean squared norm of `d_in` per model. One scale for all models keeps their norms comparable."""

    mean: Float[torch.Tensor, "n_models d_in"]
    scale: float

    def __call__(self, rows: Float[torch.Tensor, "tokens n_models d_in"]) -> Float[torch.Tensor, "tokens width"]:
        """Normalised rows, models side by side, float32."""
        return ((rows.float() - self.mean) * self.scale).flatten(1)


class SparseCoder(nn.Module):
    """Base of all architectures: `outcome` gives the losses of a batch, `thresholds` how the saved dictionary selects."""

    kind: str
    """Name of the architecture that it is saved as: `topk`, `jumprelu`, `gated` or `standard`."""

    def __init__(self, config: CoderConfig, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        check_dedicated(config, layout)
        self.layout, self.shared_config = layout, config
        rows = torch.randn(config.n_latents, layout.width, generator=generator)
        for dedicated in self._foreign(rows):
            dedicated.zero_()
        rows *= (1.0 if config.decoder_norm == "unit" else FIRST_NORM) / rows.norm(dim=-1, keepdim=True)
        self.encoder = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(config.n_latents))
        self.decoder = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(layout.width))

    def outcome(self, x: Float[torch.Tensor, "tokens width"], now: Circumstances) -> Outcome:
        """Codes, reconstruction and losses of normalised rows."""
        raise NotImplementedError

    def thresholds(self) -> Float[torch.Tensor, " latents"] | None:
        """For a dictionary saved as JumpReLU: the pre-activation above which each latent is active."""
        return None

    @property
    def k(self) -> int | None:
        """For a dictionary saved as TopK: active latents of each token."""
        return None

    def decode(self, codes: Codes) -> Float[torch.Tensor, "tokens width"]:
        """Reconstruction of normalised rows."""
        return decode(codes, self.decoder) + self.decoder_bias

    def share_unexplained(self, error: Float[torch.Tensor, "tokens width"]) -> Float[torch.Tensor, ""]:
        """Squared error in units of the input's variance, a fixed unit: the mean over parts of a batch is that of the batch."""
        return error.square().mean()

    @torch.no_grad()
    def norms(self) -> Float[torch.Tensor, " latents"]:
        """Each decoder row's norm, summed over models: how much one unit of activation writes (Lindsey et al. 2024, crosscoders)."""
        return self.decoder.unflatten(1, (self.layout.n_models, self.layout.d_in)).norm(dim=-1).sum(-1)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Correct the gradients: dedicated latents stay dedicated, and decoder rows get no pull along themselves."""
        for parameter in (self.encoder, self.decoder):
            for dedicated in self._foreign(parameter.grad):
                dedicated.zero_()
        if self.shared_config.decoder_norm == "unit" and self.decoder.grad is not None:
            for gradient, rows in zip(self.decoder.grad.split(ROWS_AT_A_TIME), self.decoder.split(ROWS_AT_A_TIME), strict=True):
                gradient.addcmul_(rows, (gradient * rows).sum(-1, keepdim=True), value=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring decoder rows back to norm one, where they are kept there."""
        if self.shared_config.decoder_norm == "unit":
            for rows in self.decoder.split(ROWS_AT_A_TIME):
                rows.div_(rows.norm(dim=-1, keepdim=True))

    def _foreign(self, rows: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """The parts of `rows` that dedicated latents must not use, as views."""
        config, d_in = self.shared_config, self.layout.d_in
        if rows is not None and config.base_only:
            yield rows[: config.base_only, d_in:]
        if rows is not None and config.tuned_only:
            yield rows[config.base_only : config.base_only + config.tuned_only, :d_in]

    @torch.no_grad()
    def folded(self, normaliser: Normaliser) -> dict[str, torch.Tensor]:
        """Weights in sae-lens' naming that act on raw residuals: normalisation and decoder norms folded in.

        Each latent's decoder norms, summed over models, are one. A crosscoder's weights have an axis for the models.
        """
        models, d_in = self.layout.n_models, self.layout.d_in
        norms = self.norms()
        unit = torch.where(norms > 0, norms, 1.0) / normaliser.scale  # of an activation, in raw residuals
        mean = normaliser.mean.flatten() + self.decoder_bias / normaliser.scale
        bias = self.encoder_bias * unit - (self.encoder @ mean) * unit * normaliser.scale
        encoder = self.encoder * (unit * normaliser.scale)[:, None]
        decoder = self.decoder / (unit * normaliser.scale)[:, None]
        weights = {"W_enc": encoder.T, "b_enc": bias, "W_dec": decoder, "b_dec": mean}
        thresholds = self.thresholds()
        if thresholds is not None:
            weights["threshold"] = thresholds * unit
        if models > 1:
            weights["W_enc"] = weights["W_enc"].unflatten(0, (models, d_in))
            weights["W_dec"] = weights["W_dec"].unflatten(1, (models, d_in))
            weights["b_dec"] = weights["b_dec"].unflatten(0, (models, d_in))
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}


def check_dedicated(config: CoderConfig, layout: Layout) -> None:
    """Raise `TrainingError` for dedicated latents that there is no room or no second model for."""
    dedicated = config.base_only + config.tuned_only
    if dedicated and layout.n_models != 2:
        raise TrainingError("base_only and tuned_only need residuals of two models: train a crosscoder, or set both to 0.")
    if dedicated >= config.n_latents:
        raise TrainingError(f"base_only and tuned_only make {dedicated} latents, of {config.n_latents} in all. Lower them.")


def check_k(k: int, config: CoderConfig) -> None:
    """Raise `TrainingError` for more active latents than there are."""
    if k > config.n_latents:
        raise TrainingError(f"k is {k}, more than the {config.n_latents} latents. Lower k, or raise n_latents.")
