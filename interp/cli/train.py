"""`personascope capture`, `train sae` and `train crosscoder`: options to config, config to study, result to a few lines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from interp.cli.settings import gathered
from interp.cli.shown import plain_warnings
from interp.core.config import validated
from interp.core.progress import progress
from interp.studies.training import capture_store, estimate_training, train_dictionaries
from interp.studies.training_config import CaptureConfig, TrainingConfig


def capture_from_options(options: dict[str, Any], file: Path | None, overrides: list[str], out: Path, as_json: bool) -> None:
    """Write a store and say what is in it."""
    config = validated(CaptureConfig, *gathered(options, file, overrides))
    with plain_warnings():
        store = capture_store(config, out, partial(progress, quiet=as_json))
    facts = {"folder": str(out), "tokens": store.n_rows, "hook_points": list(store.hook_points), "n_models": store.n_models}
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{store.n_rows:,} tokens of {store.n_models} model{'s' * (store.n_models > 1)} at {', '.join(store.hook_points)} in {out}")


PLACES = {
    "kind": "dictionary.architecture.kind",
    "base_only": "dictionary.architecture.base_only",
    "tuned_only": "dictionary.architecture.tuned_only",
    "tokens": "dictionary.tokens",
    "batch": "dictionary.batch_tokens",
    "rate": "dictionary.learning_rate",
    "reads": "dictionary.reads",
    "latents": "latents",
    "ks": "ks",
}
"""Where in the settings an option of `train` stands."""


def train_from_options(
    options: dict[str, Any],
    dictionary: dict[str, Any],
    file: Path | None,
    overrides: list[str],
    out: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train, or with `dry_run` say what it would cost. `dictionary` are the options that `PLACES` names."""
    options = options | {PLACES[name]: value for name, value in dictionary.items()}
    config = validated(TrainingConfig, *gathered(options, file, overrides))
    leads = os.environ.get("RANK", "0") == "0"
    if dry_run:
        cost = estimate_training(config)
        if as_json:
            print(json.dumps(asdict(cost), indent=2))
        else:
            gib = 2**30
            print(f"tokens  {cost.tokens:,} in {cost.steps:,} steps")
            print(f"memory  about {cost.memory_bytes / gib:.2f} GiB, and the models")
            print(f"disk    about {cost.disk_bytes / gib:.2f} GiB for checkpoints and result")
            print(f"time    about {_duration(cost.seconds)}, from a short calibration on this machine")
        return
    with plain_warnings():
        trained = train_dictionaries(config, out, partial(progress, quiet=as_json or not leads))
    if not leads:
        return
    if as_json:
        print(
            json.dumps(
                {name or "dictionary": {**asdict(result), "folder": str(result.folder)} for name, result in trained.items()}, indent=2
            )
        )
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
