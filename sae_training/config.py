"""Settings of a dictionary and of its training: the same object is YAML, command line and manifest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from interp.core.config import StepConfig


class CoderConfig(StepConfig):
    """Settings that every architecture has."""

    n_latents: int = Field(default=4096, ge=1)
    """Width of the dictionary."""
    decoder_norm: Literal["folded", "unit"] = "folded"
    """`folded`: norms are free, choices and penalties weigh activations by them, and saving folds them into the activations. Rows begin
    small, which learns faster. `unit`: rows are kept at norm one, the part of the gradient along them taken away."""
    base_only: int = Field(default=0, ge=0)
    """Crosscoder: latents that read and write the first model alone."""
    tuned_only: int = Field(default=0, ge=0)
    """Crosscoder: latents that read and write the second model alone."""


class AuxKConfig(CoderConfig):
    """Settings of the loss for dead latents."""

    aux_k: int | None = Field(default=None, ge=0)
    """Dead latents that reconstruct each token's error; default: half of the residual's width. 0 leaves the loss out."""
    aux_weight: float = Field(default=1 / 32, gt=0)
    """Weight of that loss."""


class TopKConfig(AuxKConfig):
    """A TopK sparse autoencoder."""

    kind: Literal["topk"] = "topk"
    """Name of the architecture."""
    k: int = Field(default=32, ge=1)
    """Latents active at each token."""
    multi_k: int | None = Field(default=None, ge=2)
    """The `multi_k` × k strongest latents reconstruct the token a second time, so that codes stay good at other k (appendix A.4)."""
    multi_weight: float = Field(default=1 / 8, gt=0)
    """Weight of that second loss."""


class BatchTopKConfig(AuxKConfig):
    """A BatchTopK sparse autoencoder, saved as JumpReLU with the threshold learnt on the way."""

    kind: Literal["batchtopk"] = "batchtopk"
    """Name of the architecture."""
    k: int = Field(default=32, ge=1)
    """Latents active at a token, on average."""
    threshold_rate: float = Field(default=0.01, gt=0, le=1)
    """Share by which each batch moves the threshold towards its weakest activation."""


class MatryoshkaConfig(BatchTopKConfig):
    """A BatchTopK sparse autoencoder whose first latents are a dictionary of their own, and so on."""

    kind: Literal["matryoshka"] = "matryoshka"  # type: ignore[assignment]
    """Name of the architecture."""
    nested: list[float] = Field(default=[1 / 16, 1 / 8, 1 / 4, 1 / 2], min_length=1)
    """Sizes of the inner dictionaries, as shares of all latents, ascending."""


class JumpReLUConfig(CoderConfig):
    """A JumpReLU sparse autoencoder."""

    kind: Literal["jumprelu"] = "jumprelu"
    """Name of the architecture."""
    decoder_norm: Literal["unit"] = "unit"
    """Rows are kept at norm one: thresholds have no other unit."""
    l0_weight: float = Field(default=1e-3, gt=0)
    """Weight of the penalty: the mean number of active latents of a token."""
    first_threshold: float = Field(default=1.0, gt=0)
    """Threshold of every latent at the start, in standard deviations of a pre-activation."""
    bandwidth: float = Field(default=0.5, gt=0)
    """Width of the window around a threshold whose pre-activations move it, in the same unit."""


class GatedConfig(CoderConfig):
    """A gated sparse autoencoder."""

    kind: Literal["gated"] = "gated"
    """Name of the architecture."""
    decoder_norm: Literal["unit"] = "unit"
    """Rows are kept at norm one: thresholds have no other unit."""
    l1_weight: float = Field(default=0.1, gt=0)
    """Weight of the penalty on the gates: mean over tokens of Σ gate × decoder norm, over the square root of the row's width."""


class StandardConfig(CoderConfig):
    """A ReLU sparse autoencoder with an L1 penalty on activations, weighted by decoder norms."""

    kind: Literal["standard"] = "standard"
    """Name of the architecture."""
    l1_weight: float = Field(default=0.1, gt=0)
    """Weight of the penalty: mean over tokens of Σ activation × decoder norm, over the square root of the row's width."""


ArchitectureConfig = Annotated[
    TopKConfig | BatchTopKConfig | MatryoshkaConfig | JumpReLUConfig | GatedConfig | StandardConfig, Field(discriminator="kind")
]
"""Any of the architectures' configs; `kind` says which."""

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
    def _default_to_topk(cls, given: Any) -> Any:
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
