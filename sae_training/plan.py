"""What a training will do, settled and checked before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interp.core.errors import TrainingError
from sae_training.checkpoints import CHECKPOINTS
from sae_training.config import TrainConfig
from sae_training.feed import Block, Source
from sae_training.normalise import Normaliser, calibrate, layout_of


@dataclass(frozen=True)
class Plan:
    """Several dictionaries trained on one feed."""

    configs: dict[str, TrainConfig]
    hook_points: dict[str, str]
    """By name of the dictionary."""
    batch: int
    """Tokens a step."""
    steps: int
    made_by: dict[str, Any]
    """All that the result depends on; what a checkpoint or a finished result must agree with."""

    @property
    def first(self) -> TrainConfig:
        """Any of the configs, for what they agree in."""
        return next(iter(self.configs.values()))


def make_plan(configs: Mapping[str, TrainConfig], source: Source, seed: int, group: int, models: Sequence[str] | None) -> Plan:
    """Check that configs, feed and each other fit. Raises `TrainingError`."""
    if not configs:
        raise TrainingError("No dictionary to train. Give at least one config.")
    named = list(models or ("unnamed",) * source.n_models)
    if len(named) != source.n_models:
        raise TrainingError(f"{len(named)} models are named, and the feed has residuals of {source.n_models}. Name each one.")
    first = next(iter(configs.values()))
    hook_points = {}
    if CHECKPOINTS in configs:
        raise TrainingError(f"'{CHECKPOINTS}' cannot be the name of a dictionary: the folder holds checkpoints. Choose another name.")
    for name, config in configs.items():
        layout_of(config.reads, source.n_models, source.d_in)
        hook_points[name] = _hook_point(config, source)
        for field in ("batch_tokens", "passes", "tokens", "checkpoint_every"):
            if getattr(config, field) != getattr(first, field):
                raise TrainingError(f"Dictionaries trained in one pass must agree in {field}; '{name}' differs. Train it by itself.")
        n_latents = config.architecture.n_latents
        if source.n_rows is not None and source.n_rows < n_latents:
            raise TrainingError(f"{source.n_rows} tokens cannot train {n_latents} latents. Give more text, or lower n_latents.")
    made_by = {
        "configs": {name: config.model_dump(mode="json") for name, config in configs.items()},
        "seed": seed,
        "group": group,
        "models": named,
        "feed": source.fingerprint,
    }
    return Plan(dict(configs), hook_points, batch_of(first, source), steps_of(first, source), made_by)


def batch_of(config: TrainConfig, source: Source) -> int:
    """Tokens a step: all there are, where there are few."""
    return config.batch_tokens if source.n_rows is None else min(config.batch_tokens, source.n_rows)


def steps_of(config: TrainConfig, source: Source) -> int:
    """Steps of a training. Raises `TrainingError` where neither config nor feed knows."""
    batch = batch_of(config, source)
    if config.tokens is not None:
        return max(1, config.tokens // batch)
    if source.n_rows is None or config.passes is None:
        raise TrainingError("The feed does not know its length before it is read. Give `tokens`, the number of tokens to train on.")
    return max(1, round(source.n_rows // batch * config.passes))


def _hook_point(config: TrainConfig, source: Source) -> str:
    if config.hook_point is None and len(source.hook_points) == 1:
        return source.hook_points[0]
    if config.hook_point not in source.hook_points:
        reason = f"The feed has no hook point '{config.hook_point}'" if config.hook_point else "The feed has several hook points"
        raise TrainingError(f"{reason}. Set hook_point to one of {', '.join(source.hook_points)}.")
    return config.hook_point


def measure(plan: Plan, source: Source, seed: int) -> dict[str, Normaliser]:
    """Each dictionary's input, from a sample of the feed: blocks in random order until there are enough tokens."""
    wanted = max(config.calibration_tokens for config in plan.configs.values())
    blocks: list[Block] = []
    for index in torch.randperm(source.n_blocks, generator=torch.Generator().manual_seed(seed)).tolist():
        blocks.append(source.block(index))
        if sum(len(next(iter(block.values()))) for block in blocks) >= wanted:
            break
    if not any(len(next(iter(block.values()))) for block in blocks):
        raise TrainingError("There is nothing to train on: the source of residuals is empty. Give more text.")
    result = {}
    for name, config in plan.configs.items():
        rows = torch.cat([block[plan.hook_points[name]] for block in blocks])[: config.calibration_tokens]
        result[name] = calibrate(rows, config)
    return result
