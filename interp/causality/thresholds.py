"""The thresholds of the verdict."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig


class Rules(StepConfig):
    """Thresholds of the verdict, beside which its intervals stand."""

    kept_coherence: float = Field(default=0.8, ge=0, le=1)
    """Coherence after ablation, as a share of the base's."""
    steered_coherence: float = Field(default=0.6, ge=0, le=1)
    """Coherence under steering."""
    steering_ratio: float = Field(default=5.0, gt=0)
    """Steered rate over the rate of any random direction of the same dose that was asked every question."""
    rank_p: float = Field(default=0.05, gt=0, lt=1)
    """Largest p among random directions, each on its own."""
