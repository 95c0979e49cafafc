"""How well three trainers reconstruct held-out residuals after the same number of tokens, each with its own start and loss."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import torch
from contenders import TRAINERS, Contender, Schedule, Shape
from jaxtyping import Float
from rows import Residuals
from timing import say

from sae_training.config import TrainConfig
from sae_training.feed import Feed, MemorySource
from sae_training.normalise import calibrate

WARMUP, DECAY = 0.05, 1 / 3
WORSE = 1.01
"""Unexplained share of variance, over another's, up to which ours is as good."""


def fvu(coder: Contender, x: Float[torch.Tensor, "rows d_in"]) -> float:
    """Share of the rows' variance that is not reconstructed."""
    error = sum(float((coder.reconstruct(part) - part).square().sum()) for part in x.split(1024))
    return error / float((x - x.mean(0)).square().sum())


def compare(
    names: list[str], shape: Shape, residuals: Residuals, passes: float, learning_rates: dict[str, float], seed: int
) -> dict[str, Any]:
    """Train all on the same batches in the same order; `learning_rates` by name."""
    device = torch.device("cpu")
    normaliser = calibrate(residuals.train, TrainConfig())
    held_out = normaliser(residuals.held_out)
    steps = round(len(residuals.train) // shape.batch * passes)
    coders: dict[str, Contender] = {
        name: TRAINERS[name](shape, normaliser, Schedule(learning_rates[name], steps, WARMUP, DECAY, revive=True), seed, device)
        for name in names
    }
    say(f"Quality: {steps} steps of {shape.batch} tokens, {len(held_out)} tokens held out")
    begun, last = time.monotonic(), 0.0
    with closing(Feed(MemorySource({"": residuals.train}), shape.batch, seed).batches()) as feed:
        for step in range(steps):
            raw = next(feed)[0][""]
            x = normaliser(raw)
            for coder in coders.values():
                coder.step(raw, x)
            spent = time.monotonic() - begun
            if spent - last > 20 or step + 1 == steps:
                last = spent
                so_far = ", ".join(f"{name} {fvu(coder, held_out[:2048]):.4f}" for name, coder in coders.items())
                say(f"  step {step + 1}/{steps}, FVU {so_far}; {spent / (step + 1) * (steps - step - 1):.0f} s left")
    reached = {name: fvu(coder, held_out) for name, coder in coders.items()}
    return {
        "shape": str(shape),
        "tokens": steps * shape.batch,
        "passes": passes,
        "distinct_tokens": len(residuals.train),
        "held_out_tokens": len(held_out),
        "learning_rates": {name: learning_rates[name] for name in names},
        "seed": seed,
        "source": residuals.source,
        "fvu": reached,
        "ratios": {f"ours/{name}": reached["ours"] / value for name, value in reached.items() if name != "ours" and "ours" in reached},
    }
