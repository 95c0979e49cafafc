"""Checkpoints: everything the next step depends on, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import PersonascopeError, TrainingError, reason_of
from interp.core.files import read_json, replacing, write_json

TENSORS, STATE, METRICS = "tensors.safetensors", "state.json", "metrics.parquet"
N_KEPT = 2
CHECKPOINTS = "checkpoints"
"""Their folder, in the folder of a training."""


@dataclass(frozen=True)
class Checkpoint:
    """Training after `step` steps."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    metrics: pd.DataFrame


class Checkpoints:
    """The checkpoints of one training, in `folder`; `made_by` is what they must have in common for training to resume from them."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self.folder, self.made_by = folder, dict(made_by)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write one and forget all but the last two. Raises `TrainingError` where the disk does not take it; earlier ones stay."""
        target = self.folder / f"step-{checkpoint.step:09d}"
        try:
            with replacing(target) as partial:
                partial.mkdir(parents=True)
                tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
                save_file(tensors, partial / TENSORS)
                checkpoint.metrics.to_parquet(partial / METRICS)
                write_json(partial / STATE, {"step": checkpoint.step, "made_by": self.made_by, **checkpoint.state})
        except (OSError, SafetensorError, PersonascopeError) as error:
            remedy = f"{self.last_good()} Free some space and run the same command again."
            raise TrainingError(f"Cannot write the checkpoint {target}: {reason_of(error)}. {remedy}") from error
        for old in self.finished()[:-N_KEPT]:
            shutil.rmtree(old)
        return target

    def finished(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f"step-{9 * '[0-9]'}/{STATE}"))

    def last_good(self) -> str:
        """A sentence that names the last one."""
        folders = self.finished()
        return f"The last good checkpoint is {folders[-1]}." if folders else "There is no checkpoint yet."

    def latest(self) -> Checkpoint | None:
        """The last one, or None. Raises `TrainingError` for one that other settings made, or that is damaged."""
        folders = self.finished()
        if not folders:
            return None
        folder = folders[-1]
        try:
            state = read_json(folder / STATE)
            tensors, metrics = load_file(folder / TENSORS), pd.read_parquet(folder / METRICS)
            step, differing = state["step"], differences(state["made_by"], self.made_by)
        except (OSError, SafetensorError, PersonascopeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"The checkpoint {folder} is damaged: {error}. Delete it to resume from the one before.") from error
        if differing:
            raise TrainingError(
                f"{folder} was made with other settings ({'; '.join(differing)}). Choose another folder, or delete {self.folder}."
            )
        return Checkpoint(step, tensors, state, metrics)

    def forget(self) -> None:
        """Delete them all: training is done and its result saved."""
        shutil.rmtree(self.folder, ignore_errors=True)


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """What differs between two nested settings, as `field: before, now after`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    return [] if before == now else [f"{path}: {before}, now {now}"]
