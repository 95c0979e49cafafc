"""`personascope capture`, `train sae` and `train crosscoder`: options to config, config to study, result to a few lines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from interp.config import read_yaml, validated, with_overrides
from interp.progress import progress
from interp.studies.training import CaptureConfig, TrainingConfig, capture_store, estimate_training, train_dictionaries


def _values(options: dict[str, Any], file: Path | None, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """File, then options, then --set, later ones winning; and what to call the whole in an error."""
    values = read_yaml(file) if file else {}
    given = {name: value for name, value in options.items() if value is not None and value != []}
    plain = {name: value for name, value in given.items() if "." not in name}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
    nested = [f"{name}={json.dumps(value)}" for name, value in given.items() if "." in name]
    return with_overrides(values | plain, nested + overrides), str(file) if file else "options"


def capture_from_options(options: dict[str, Any], file: Path | None, overrides: list[str], out: Path, as_json: bool) -> None:
    """Write a store and say what is in it."""
    config = validated(CaptureConfig, *_values(options, file, overrides))
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
    config = validated(TrainingConfig, *_values(options, file, overrides))
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


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
