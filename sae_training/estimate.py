"""What a training will cost, from its sizes and a short calibration: a few steps on the feed's first rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sae_training.checkpoints import N_KEPT
from sae_training.config import TrainConfig
from sae_training.distributed import World
from sae_training.feed import MemorySource, Source
from sae_training.plan import make_plan, measure
from sae_training.sae_trainer import SAETrainer

TRIED_STEPS = 4


@dataclass(frozen=True)
class Estimate:
    """Cost of a training, to be read as "about"."""

    tokens: int
    steps: int
    memory_bytes: int
    """Weights, gradients and optimizer of all dictionaries, one chunk of pre-activations, and the feed's blocks; without the models."""
    disk_bytes: int
    """Checkpoints and results."""
    seconds: float
    """Steps and reading the feed."""


def estimate(
    configs: Mapping[str, TrainConfig], source: Source, seed: int = 0, device: torch.device | str = "cpu", group: int = 4
) -> Estimate:
    """Measure a few steps, and write nothing. Raises `TrainingError` as training would."""
    device = torch.device(device)
    plan = make_plan(configs, source, seed, group, None)
    began = time.monotonic()
    block = source.block(0)
    block_seconds = time.monotonic() - began
    block_rows = max(1, len(next(iter(block.values()))))
    block_bytes = sum(tensor.numel() * tensor.element_size() for tensor in block.values())
    inputs = measure(plan, MemorySource(block), seed)
    rows = {name: tensor[torch.arange(plan.batch) % block_rows] for name, tensor in block.items()}
    parameter_bytes, step_seconds = 0, 0.0
    for name, config in plan.configs.items():
        trainer = SAETrainer(config, inputs[name], (source.n_models, source.d_in), plan.steps, plan.batch, seed, device)
        parameter_bytes += sum(parameter.numel() * parameter.element_size() for parameter in trainer.coder.parameters())
        seconds = []
        for step in range(TRIED_STEPS + 1):
            began = time.monotonic()
            trainer.step(rows[plan.hook_points[name]].to(device), step, World())
            seconds.append(time.monotonic() - began)
        step_seconds += statistics.median(seconds[1:])  # the first one compiles
        del trainer
    tokens = plan.steps * plan.batch
    chunk_bytes = 4 * max(2**22, max(32 * config.architecture.n_latents for config in plan.configs.values()))
    blocks = min(source.n_blocks, group * (2 if source.background else 1))
    return Estimate(
        tokens=tokens,
        steps=plan.steps,
        memory_bytes=4 * parameter_bytes + parameter_bytes // 2 + chunk_bytes + blocks * block_bytes,
        disk_bytes=(N_KEPT + 1) * 3 * parameter_bytes + parameter_bytes,
        seconds=plan.steps * step_seconds + tokens / block_rows * block_seconds,
    )
