"""Train a dictionary on stored residuals: one readable loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field

from interp.config import StepConfig
from interp.errors import TrainingError
from sae_training.architectures.topk import TopK


class DictionaryConfig(StepConfig):
    """A TopK sparse autoencoder and its training."""

    n_latents: int = Field(default=4096, ge=1)
    """Width of the dictionary."""
    k: int = Field(default=32, ge=1)
    """Latents active at each token."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens a step."""
    passes: float = Field(default=6.0, gt=0)
    """Passes over the captured tokens."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam; warm-up over a twentieth of the steps, linear decay over the last third."""


@dataclass(frozen=True)
class TrainedDictionary:
    """What training hands over."""

    weights: dict[str, torch.Tensor]
    """In sae-lens' naming, acting on raw residuals."""
    metrics: pd.DataFrame
    """One row a step: fvu, dead_share, l0, learning_rate."""
    fvu: float
    """Fraction of variance unexplained over the whole of the last pass."""
    dead_share: float
    """Share of latents that never fired during the last pass."""


def train_topk(
    residuals: Float[torch.Tensor, "tokens d_in"],
    config: DictionaryConfig,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainedDictionary:
    """Train on `residuals`, in a fresh random order each pass. Raises `TrainingError` for bad sizes or values, or a loss that diverges.

    `progress` gets (step, steps, fvu).
    """
    tokens, d_in = residuals.shape
    if config.k > config.n_latents:
        raise TrainingError(f"k is {config.k}, more than the {config.n_latents} latents. Lower dictionary.k.")
    if tokens < config.n_latents:
        raise TrainingError(f"{tokens} tokens cannot train {config.n_latents} latents. Give more text, or lower dictionary.n_latents.")
    mean = residuals.mean(0)
    variance = float(_total_variance(residuals, mean)) / tokens
    if not math.isfinite(variance):
        raise TrainingError("The residuals hold values that are not finite. Capture them in float32.")
    if variance == 0.0:
        raise TrainingError("The residuals are the same at every token, so there is nothing to learn. Check the text and the hook point.")
    scale = (d_in / variance) ** 0.5
    batch = min(config.batch_tokens, tokens)
    steps_per_pass = tokens // batch
    steps = max(1, round(steps_per_pass * config.passes))
    sae = TopK(d_in, config.n_latents, config.k, seed)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    order = torch.Generator().manual_seed(seed)
    fired = torch.zeros(config.n_latents, dtype=torch.bool)
    rows: list[dict[str, float]] = []
    permutation = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(permutation) < batch:
            permutation = torch.randperm(tokens, generator=order)
            fired.zero_()
        chosen, permutation = permutation[:batch], permutation[batch:]
        x = (residuals[chosen] - mean) * scale
        reconstruction, values, indices = sae(x)
        loss = (reconstruction - x).square().sum() / x.square().sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss is {loss.item()} at step {step + 1} of {steps}. Lower dictionary.learning_rate.")
        loss.backward()
        sae.remove_parallel_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sae.normalise_decoder()
        fired[indices[values > 0]] = True
        rows.append({
            "step": step + 1,
            "fvu": loss.item(),
            "dead_share": 1.0 - float(fired.float().mean()),
            "l0": float((values > 0).sum(-1).float().mean()),
            "learning_rate": float(schedule.get_last_lr()[0]),
        })  # fmt: skip
        schedule.step()
        if progress:
            progress(step + 1, steps, rows[-1]["fvu"])
    metrics = pd.DataFrame(rows)
    last = metrics.tail(steps_per_pass)
    return TrainedDictionary(sae.folded(mean, scale), metrics, float(last["fvu"].mean()), float(metrics["dead_share"].iloc[-1]))


def _total_variance(residuals: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Sum of squared distances from the mean, in chunks so that no copy of all residuals is made."""
    return torch.stack([(chunk - mean).square().sum(dtype=torch.float64) for chunk in residuals.split(65_536)]).sum()


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: warm-up over a twentieth, flat, linear decay over the last third."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, 3.0 * (steps - step) / steps)
