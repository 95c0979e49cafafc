"""Small configs and trainings that stop, for tests of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_training.config import BatchTopKConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, StandardConfig, TopKConfig, TrainConfig

LATENTS = 64
BATCH = {"batch_tokens": 60, "passes": 1.5, "checkpoint_every": 4, "calibration_tokens": 200}
STEPS = 15
QUICK = TrainConfig(architecture=TopKConfig(n_latents=LATENTS, k=3), dead_after_tokens=60, **BATCH)


def changed(**fields: Any) -> TrainConfig:
    """`QUICK` with other settings, validated."""
    return TrainConfig.model_validate({**QUICK.model_dump(), **fields})


KINDS = {
    "topk": QUICK,
    "multi_k": changed(architecture=TopKConfig(n_latents=LATENTS, k=2, multi_k=3)),
    "batchtopk": changed(architecture=BatchTopKConfig(n_latents=LATENTS, k=3, threshold_rate=0.2)),
    "matryoshka": changed(architecture=MatryoshkaConfig(n_latents=LATENTS, k=3, nested=[0.25, 0.5])),
    "jumprelu": changed(architecture=JumpReLUConfig(n_latents=LATENTS)),
    "gated": changed(architecture=GatedConfig(n_latents=LATENTS)),
    "standard": changed(architecture=StandardConfig(n_latents=LATENTS, decoder_norm="folded")),
}


class Stopped(Exception):
    """The user's Ctrl-C, as it were."""


class StopAfter:
    """A callback and an `advance` that stop at a step."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def __call__(self, steps: int, _what: str) -> None:
        self.done += steps
        if self.done >= self.step:
            raise Stopped

    def row(self, _dictionary: str, metrics: Mapping[str, float]) -> None:
        if metrics["step"] >= self.step:
            raise Stopped

    def end(self, _dictionary: str, _summary: Mapping[str, Any]) -> None:
        raise Stopped


def everything(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


RESULT = {"dictionary/cfg.json", "dictionary/sae_weights.safetensors", "latents.parquet", "metrics.parquet", "training.json"}


def several() -> dict[str, TrainConfig]:
    """Dictionaries of two hook points and two models, read in all ways."""
    return {
        "first/each": changed(hook_point="first", outlier_factor=1.3),
        "first/pair": changed(hook_point="first", reads="pair", architecture=KINDS["batchtopk"].architecture, log_every=4),
        "second": changed(hook_point="second", reads="difference", architecture=KINDS["jumprelu"].architecture),
    }
