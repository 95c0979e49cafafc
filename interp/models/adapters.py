"""Adapters: read their settings, put them into a network, merge them; one that does not fit, or changes nothing, raises."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from interp.core.errors import ModelError, reason_of
from interp.core.files import read_json

FIT = "Give the base it was trained on."


def adapter_config(source: str) -> dict[str, Any] | None:
    """`adapter_config.json` of a folder or hub id, None where there is none."""
    if source.startswith("embedded:") or source.endswith(".gguf"):
        return None
    from transformers.utils.hub import cached_file

    lenient = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        file = cached_file(str(Path(source).expanduser()), "adapter_config.json", **lenient)
    except (OSError, ValueError):
        return None  # opening it as a model says what is wrong
    return read_json(Path(file)) if file else None


@torch.no_grad()
def merge_adapter(network: Any, adapter: str, source: str) -> Any:
    """The adapter merged into `network`, in place; raises `ModelError` when it does not fit `source` or changes nothing."""
    before = probe_logits(network)
    wrapped = load_adapter(network, adapter, source)
    with model_errors(f"The adapter {adapter} does not fit {source}", FIT):
        merged = wrapped.merge_and_unload()
    check_change(before, probe_logits(merged), adapter, source)
    return merged


def load_adapter(network: Any, adapter: str, source: str) -> Any:
    """`network` with the adapter's layers put in, in place, as a peft model.

    Raises `ModelError` when its folder has no weights or it does not fit `source`.
    """
    from peft import PeftModel

    folder = Path(adapter).expanduser()
    if folder.is_dir() and not any(folder.glob("adapter_model.*")):
        raise ModelError(
            f"The adapter {adapter} has no weights: adapter_model.safetensors is missing in its folder. Copy or save it again."
        )
    with model_errors(f"The adapter {adapter} does not fit {source}", FIT), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
        wrapped = PeftModel.from_pretrained(network, adapter)
        loaded = wrapped.load_adapter(adapter, "default")  # once more: only this call tells which weights found no place
        misfits = [*loaded.missing_keys, *(key for key in loaded.unexpected_keys if "lora_" in key)]
        if misfits:
            raise ValueError(f"no match for {misfits[0]}")
    return wrapped.eval()


@contextmanager
def model_errors(what: str, remedy: str) -> Iterator[None]:
    """Raise what transformers, peft and safetensors raise as a `ModelError`: what, the first line of the reason, the remedy."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{what}: {reason_of(error)}. {remedy}") from error


@torch.no_grad()
def probe_logits(network: Any) -> torch.Tensor:
    """Logits of a few fixed tokens: two networks that differ show it here."""
    return network.eval()(torch.arange(1, 9)[None]).logits


def check_change(before: torch.Tensor, after: torch.Tensor, adapter: str, source: str) -> None:
    """Raise `ModelError` where an adapter leaves the logits of `source` as they were."""
    if torch.equal(before, after):
        raise ModelError(f"The adapter {adapter} changes nothing in {source}. Check that it was trained and saved.")
