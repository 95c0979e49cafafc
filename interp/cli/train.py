"""`personascope capture`, `train sae` and `train crosscoder`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict

from interp.cli.arguments import StoreArguments, TrainArguments
from interp.core.files import read_json
from interp.reports import numbers
from interp.studies.training import capture_store, estimate_training, train_dictionaries
from interp.studies.training_config import CaptureConfig, TrainingConfig
from sae_training.results import Trained


def capture(config: CaptureConfig, arguments: StoreArguments) -> None:
    """Write a store and say what is in it."""
    store = capture_store(config, arguments.out, arguments.as_json)
    n_models, hook_points = store.index.n_models, store.index.hook_points
    result = {"folder": str(arguments.out), "tokens": store.n_rows, "hook_points": hook_points, "n_models": n_models}
    models = f"{n_models} model{'s' * (n_models > 1)}"
    arguments.report(result, f"{store.n_rows:,} tokens of {models} at {', '.join(hook_points)} in {arguments.out}")


def train(config: TrainingConfig, arguments: TrainArguments) -> None:
    """Train, or with `--dry-run` report what it would cost."""
    leads = os.environ.get("RANK", "0") == "0"
    if arguments.dry_run:
        cost = estimate_training(config)
        lines = [
            f"tokens  {cost.tokens:,} in {cost.steps:,} steps",
            f"memory  about {cost.memory_bytes / 2**30:.2f} GiB, and the models",
            f"disk    about {cost.disk_bytes / 2**30:.2f} GiB for checkpoints and result",
            f"time    about {numbers.duration(cost.seconds)}, from a short calibration on this machine",
        ]
        arguments.report(asdict(cost), "\n".join(lines))
        return
    trained = train_dictionaries(config, arguments.out, arguments.as_json or not leads)
    if leads:
        results = {name or "dictionary": {**asdict(result), "folder": str(result.folder)} for name, result in trained.items()}
        arguments.report(results, "\n".join(line for name, result in trained.items() for line in _described(name, result, config)))


def _described(name: str, result: Trained, config: TrainingConfig) -> Iterator[str]:
    """What is known of a trained dictionary, in lines."""
    figures = f"FVU {result.fvu:.3f}, {result.l0:.0f} latents a token, {result.dead_share:.1%} dead"
    yield f"{name + ': ' if name else ''}{figures}, in {result.dictionary}"
    quality = result.folder / "quality.json"
    for model, loss in read_json(quality).items() if quality.is_file() else ():
        share = "nothing to recover" if loss["recovered"] is None else f"{loss['recovered']:.1%} of the loss recovered"
        yield f"  spliced into {model}: {share} ({loss['plain']:.3f} → {loss['spliced']:.3f} nats)"
    if config.base is not None and config.spliced_chats and not quality.is_file():
        needed, held_out = 4 * config.spliced_chats, config.spliced_chats
        yield f"  no loss with its reconstruction: that takes {needed} chats, of which {held_out} are held out"
