"""Settings of a dictionary and of its training: the same object is YAML, command line and manifest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from interp.core.config import StepConfig
from sae_training.architectures import ArchitectureConfig
from sae_training.architectures.topk import TopKConfig

Reads = Literal["each", "pair", "difference"]


class TrainConfig(StepConfig):
    """A dictionary and its training."""

    architecture: ArchitectureConfig = TopKConfig()
    """The dictionary; `kind` is topk, batchtopk, matryoshka, jumprelu, gated or standard."""
    hook_point: str | None = None
    """Which residuals of the feed it reads; needed where the feed has several."""
    reads: Reads = "each"
    """Of two models: `each` token of each model by itself (SAE), both as a `pair` (crosscoder), or the `difference` second minus first."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens a step, over all processes."""
    passes: float | None = Field(default=6.0, gt=0)
    """Passes over the feed's tokens, where their number is known; `tokens` takes its place."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens to train on."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam. Short trainings, of under some 3,000 steps, learn more at 0.003."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    decay: float = Field(default=1 / 3, ge=0, le=1)
    """Share of the steps, at the end, over which it falls to nothing."""
    sparsity_warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which a sparsity penalty rises to its full weight; kinds that fix k have none."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    dead_after_tokens: int | None = Field(default=None, ge=1)
    """A latent that has not fired for so many tokens is dead; default: a tenth of the training, at most 10 million."""
    outlier_factor: float | None = Field(default=None, gt=1)
    """Leave out tokens whose residual norm is so many times the median; published persona SAEs use 10."""
    calibration_tokens: int = Field(default=65_536, ge=1)
    """Tokens from which mean, scale and median norm of the residuals are taken."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; the last two are kept."""
    log_every: int = Field(default=1, ge=1)
    """Steps between rows of metrics."""

    @field_validator("architecture", mode="before")
    @classmethod
    def _topk_unless_said(cls, given: Any) -> Any:
        return {"kind": "topk", **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainConfig:
        if self.tokens is None and self.passes is None:
            raise ValueError("give passes or tokens, or training never ends")
        return self


def learning_rate_share(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: a linear rise, flat, a linear fall."""
    rising, falling = max(1, round(steps * warmup)), steps * decay
    up = min(1.0, (step + 1) / rising)
    down = 1.0 if falling == 0 else min(1.0, (steps - step) / falling)
    return min(up, down)
