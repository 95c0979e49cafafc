"""How a dictionary makes its rows of residuals: mean, scale and typical norm, taken from a sample of the feed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float

from interp.core.errors import TrainingError
from sae_training.config import Reads, TrainConfig

SAMPLE_ROWS = 8192  # taken to float64 at a time


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
class Normaliser:
    """Brings residuals to mean zero and a mean squared norm of `d_in` per model. One scale for all models keeps their norms comparable."""

    reads: Reads
    mean: Float[torch.Tensor, "n_models d_in"]
    scale: float
    largest_norm: float | None = None
    """Tokens with a larger residual are left out; None keeps all."""

    def to(self, device: torch.device) -> Normaliser:
        """The same on another device."""
        return replace(self, mean=self.mean.to(device))

    def __call__(self, residuals: Float[torch.Tensor, "tokens n_models d_in"]) -> Float[torch.Tensor, "rows width"]:
        """Normalised rows, models side by side, float32, outliers left out."""
        rows = read(residuals, self.reads)
        if self.largest_norm is not None:
            norms = rows.float().norm(dim=-1)
            rows = rows[((norms <= self.largest_norm) | ~torch.isfinite(norms)).all(-1)]  # what is not finite is for the trainer to report
        return rearrange((rows.float() - self.mean) * self.scale, "rows models d_in -> rows (models d_in)")

    def as_numbers(self) -> dict[str, Any]:
        """As JSON; floats survive the way to text and back."""
        return asdict(self) | {"mean": self.mean.tolist()}

    @staticmethod
    def from_numbers(numbers: Mapping[str, Any]) -> Normaliser:
        """What `as_numbers` wrote."""
        return Normaliser(**{**numbers, "mean": torch.tensor(numbers["mean"])})


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
    return rearrange(residuals, "tokens models d_in -> (tokens models) 1 d_in")


def calibrate(residuals: Float[torch.Tensor, "tokens n_models d_in"], config: TrainConfig) -> Normaliser:
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
    return Normaliser(config.reads, mean.float(), (rows.shape[-1] / variance) ** 0.5, largest)
