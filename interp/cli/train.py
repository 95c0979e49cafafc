"""`personascope capture`, `train sae` and `train crosscoder`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from interp.cli.arguments import StoreArguments, TrainArguments, print_json
from interp.studies.training import capture_store, estimate_training, train_dictionaries
from interp.studies.training_config import CaptureConfig, TrainingConfig


def capture(config: CaptureConfig, arguments: StoreArguments) -> None:
    """Write a store and say what is in it."""
    store = capture_store(config, arguments.out, arguments.as_json)
    if arguments.as_json:
        shape = {"tokens": store.n_rows, "hook_points": store.index.hook_points, "n_models": store.index.n_models}
        print_json({"folder": str(arguments.out), **shape})
    else:
        models = f"{store.index.n_models} model{'s' * (store.index.n_models > 1)}"
        print(f"{store.n_rows:,} tokens of {models} at {', '.join(store.index.hook_points)} in {arguments.out}")


def train(config: TrainingConfig, arguments: TrainArguments) -> None:
    """Train, or with `--dry-run` report what it would cost."""
    leads = os.environ.get("RANK", "0") == "0"
    if arguments.dry_run:
        cost = estimate_training(config)
        if arguments.as_json:
            print_json(asdict(cost))
        else:
            gib = 2**30
            print(f"tokens  {cost.tokens:,} in {cost.steps:,} steps")
            print(f"memory  about {cost.memory_bytes / gib:.2f} GiB, and the models")
            print(f"disk    about {cost.disk_bytes / gib:.2f} GiB for checkpoints and result")
            print(f"time    about {_duration(cost.seconds)}, from a short calibration on this machine")
        return
    trained = train_dictionaries(config, arguments.out, arguments.as_json or not leads)
    if not leads:
        return
    if arguments.as_json:
        print_json({name or "dictionary": {**asdict(result), "folder": str(result.folder)} for name, result in trained.items()})
        return
    for name, result in trained.items():
        figures = f"FVU {result.fvu:.3f}, {result.l0:.0f} latents a token, {result.dead_share:.1%} dead"
        print(f"{name + ': ' if name else ''}{figures}, in {result.dictionary}")
        quality = result.folder / "quality.json"
        for model, loss in json.loads(quality.read_text(encoding="utf-8")).items() if quality.is_file() else ():
            share = "nothing to recover" if loss["recovered"] is None else f"{loss['recovered']:.1%} of the loss recovered"
            print(f"  spliced into {model}: {share} ({loss['plain']:.3f} → {loss['spliced']:.3f} nats)")
        if config.base is not None and config.spliced_chats and not quality.is_file():
            held_out = config.spliced_chats
            print(f"  no loss with its reconstruction: that takes {4 * held_out} chats, of which {held_out} are held out")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
