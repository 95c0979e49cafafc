"""Mean, scale and typical norm of residuals, taken from a sample of the feed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from interp.core.errors import TrainingError
from sae_training.architectures.base import Layout, Normaliser
from sae_training.config import Reads, TrainConfig

SAMPLE_ROWS = 8192  # taken to float64 at a time


@dataclass(frozen=True)
class Input:
    """How a dictionary makes its rows of the feed's residuals."""

    reads: Reads
    normaliser: Normaliser
    largest_norm: float | None
    """Tokens with a larger residual are left out; None keeps all."""

    def to(self, device: torch.device) -> Input:
        """The same on another device."""
        return replace(self, normaliser=replace(self.normaliser, mean=self.normaliser.mean.to(device)))

    def __call__(self, residuals: Float[torch.Tensor, "tokens n_models d_in"]) -> Float[torch.Tensor, "rows width"]:
        """Normalised rows, outliers left out."""
        rows = read(residuals, self.reads)
        if self.largest_norm is not None:
            norms = rows.float().norm(dim=-1)
            rows = rows[((norms <= self.largest_norm) | ~torch.isfinite(norms)).all(-1)]  # what is not finite is for the trainer to report
        return self.normaliser(rows)


def layout_of(reads: Reads, n_models: int, d_in: int) -> Layout:
    """Layout of the rows; raises `TrainingError` where two models are needed."""
    if reads != "each" and n_models != 2:
        raise TrainingError(f"reads is '{reads}', which needs residuals of two models, and the feed has {n_models}. Capture a pair.")
    return Layout(d_in, 2 if reads == "pair" else 1)


def read(residuals: Float[torch.Tensor, "tokens n_models d_in"], reads: Reads) -> Float[torch.Tensor, "rows models d_in"]:
    """Residuals as the rows that a dictionary with this setting sees."""
    if reads == "pair":
        return residuals
    if reads == "difference":
        return residuals[:, 1:].float() - residuals[:, :1].float()
    return residuals.flatten(0, 1)[:, None]


def calibrate(residuals: Float[torch.Tensor, "tokens n_models d_in"], config: TrainConfig) -> Input:
    """Measure a sample. Raises `TrainingError` for values that are not finite, or that are the same at every token."""
    rows = read(residuals, config.reads)
    norms = rows.float().norm(dim=-1)
    if not bool(torch.isfinite(norms).all()):
        raise TrainingError("The residuals hold values that are not finite. Capture them in float32.")
    largest = None if config.outlier_factor is None else config.outlier_factor * float(norms.median())
    if largest is not None:
        rows = rows[(norms <= largest).all(-1)]
    mean = torch.stack([part.double().sum(0) for part in rows.split(SAMPLE_ROWS)]).sum(0) / max(1, len(rows))
    squares = torch.stack([(part.double() - mean).square().sum() for part in rows.split(SAMPLE_ROWS)]).sum()
    variance = float(squares) / max(1, rows.shape[0] * rows.shape[1])  # of one model's residual
    if not variance > 0:
        raise TrainingError("The residuals are the same at every token, so there is nothing to learn. Check the text and the hook point.")
    return Input(config.reads, Normaliser(mean.float(), (rows.shape[-1] / variance) ** 0.5), largest)
