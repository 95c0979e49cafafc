"""Train dictionaries on a feed of residuals: one readable loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from interp.core.errors import TrainingError
from sae_training.checkpoints import CHECKPOINTS, Checkpoint, Checkpoints
from sae_training.config import TrainConfig
from sae_training.distributed import World
from sae_training.feed import Feed, Position, Source
from sae_training.metrics import Callback
from sae_training.normalise import Normaliser
from sae_training.plan import make_plan, measure
from sae_training.results import Trained, finished, save_result
from sae_training.sae_trainer import SAETrainer


def train(config: TrainConfig, source: Source, folder: Path, **options: Any) -> Trained:
    """Train one dictionary; `train_all` says what options there are and what is raised."""
    return train_all({"": config}, source, folder, **options)[""]


def train_all(
    configs: Mapping[str, TrainConfig],
    source: Source,
    folder: Path,
    *,
    seed: int = 0,
    models: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    group: int = 4,
    callbacks: Sequence[Callback] = (),
    advance: Callable[[int, str], None] | None = None,
) -> dict[str, Trained]:
    """Train several dictionaries from one pass over `source`, each into the folder of its name.

    They must agree in batch and number of tokens. `models` names the feed's models, for the saved files; `group` is the number of
    blocks mixed at a time. Checkpoints go to `folder/checkpoints`; run again, training resumes from the last one, and on a CPU
    ends with the very same bytes; what is finished is not trained again. Under torchrun every process calls this, and the first writes.

    Raises `TrainingError` for settings that do not fit the feed, for values that are not finite, for a loss that diverges (naming
    step, batch and last good checkpoint), and for a disk that is full.
    """
    device, folder = torch.device(device), Path(folder)
    world = World.join(device)
    plan = make_plan(configs, source, seed, group, models)
    there = {name: finished(folder / name, name, plan) for name in plan.configs}
    checkpoints = Checkpoints(folder / CHECKPOINTS, plan.made_by)
    if all(there.values()):
        if world.leads:
            checkpoints.forget()  # left by a kill right after the result was written
        return {name: trained for name, trained in there.items() if trained}
    start = checkpoints.latest()
    inputs = {name: Normaliser.from_numbers(start.state["inputs"][name]) for name in plan.configs} if start else measure(plan, source, seed)
    shape = (source.n_models, source.d_in)
    trainers = {
        name: SAETrainer(config, inputs[name], shape, plan.steps, plan.batch, seed, device) for name, config in plan.configs.items()
    }
    rows: list[dict[Any, Any]] = []
    position, done = Position(), 0
    if start:
        for name, trainer in trainers.items():
            trainer.restore({key.removeprefix(f"{name}/"): t for key, t in start.tensors.items() if key.startswith(f"{name}/")})
        rows, position, done = start.metrics.to_dict("records"), Position(**start.state["position"]), start.step
    if advance and done and world.leads:
        advance(done, "resuming from a checkpoint")
    began = time.monotonic()
    with closing(Feed(source, plan.batch, seed, group).batches(position, world.rank, world.size)) as feed:
        for step in range(done, plan.steps):
            before = position
            residuals, position = next(feed)
            for name, trainer in trainers.items():
                try:
                    metrics = trainer.step(residuals[plan.hook_points[name]].to(device, non_blocking=True), step, world)
                except TrainingError as error:
                    where = f"step {step + 1} of {plan.steps}{f' of {name}' if name else ''}, at {before}"
                    raise TrainingError(f"Training stopped in {where}. {error} {checkpoints.last_good()}") from error
                if (step + 1) % trainer.config.log_every == 0 or step + 1 == plan.steps:
                    row = {"step": step + 1, **{key: float(value) for key, value in metrics.items()}}
                    rows.append({"dictionary": name, **row})
                    for callback in callbacks if world.leads else ():
                        callback.row(name, row)
            if (step + 1) % plan.first.checkpoint_every == 0 and step + 1 < plan.steps and world.leads:
                tensors = {f"{name}/{key}": tensor for name, trainer in trainers.items() for key, tensor in trainer.state().items()}
                state = {"position": asdict(position), "inputs": {name: normaliser.as_numbers() for name, normaliser in inputs.items()}}
                checkpoints.save(Checkpoint(step + 1, tensors, state, pd.DataFrame(rows)))
            if advance and world.leads:
                speed = (step + 1 - done) * plan.batch / (time.monotonic() - began)
                advance(1, f"FVU {rows[-1]['fvu']:.3f}, {speed:,.0f} tokens/s" if rows else "")
    result = {}
    if world.leads:
        table = pd.DataFrame(rows)
        for name, trainer in trainers.items():
            own = table[table["dictionary"] == name].drop(columns="dictionary").dropna(axis=1, how="all").reset_index(drop=True)
            result[name] = save_result(trainer, name, folder / name, own, plan)
            for callback in callbacks:
                callback.end(name, {key: value for key, value in asdict(result[name]).items() if key != "folder"})
        checkpoints.forget()
    world.wait()
    return result or {name: trained for name in plan.configs if (trained := finished(folder / name, name, plan))}
