"""Adapters: read their settings, put them into a network, merge them; one that does not fit, or changes nothing, raises."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from interp.core.errors import ModelError, ModelWarning, reason_of
from interp.core.files import read_json
from interp.models.tokenizer_files import file_of

FIT = "Give the base it was trained on."
_UNMERGED = "it cannot be merged into its base. Use an adapter that changes weights, such as LoRA."


def adapter_config(source: str) -> dict[str, Any] | None:
    """`adapter_config.json` of a folder or hub id, None where there is none."""
    if source.startswith("embedded:") or source.endswith(".gguf"):
        return None
    file = file_of(source, "adapter_config.json")
    return read_json(file) if file else None


def saved_rows(network: Any, adapter: str) -> int | None:
    """Rows of the embeddings that an adapter was saved with, None where it has none of its own."""
    file = file_of(adapter, "adapter_model.safetensors")
    if file is None:
        return None
    names = {module: name for name, module in network.named_modules()}
    embeddings = [names[layer] for layer in (network.get_input_embeddings(), network.get_output_embeddings()) if layer is not None]
    shapes: dict[str, list[int]] = {}
    with suppress(SafetensorError), safe_open(file, "pt") as tensors:  # loading a damaged file says what is wrong with it
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys() if any(f".{name}." in key for name in embeddings)}  # noqa: SIM118
    rows = [shape[0] for key, shape in shapes.items() if "lora_" not in key and key.endswith(".weight") and len(shape) == 2]
    rows += [shape[1] for key, shape in shapes.items() if "lora_embedding_A" in key]
    return max(rows, default=None)


@torch.no_grad()
def merge_adapter(network: Any, adapter: str, source: str) -> Any:
    """The adapter merged into `network`, in place; raises `ModelError` when it does not fit `source` or changes nothing."""
    before = probe_logits(network)
    wrapped = load_adapter(network, adapter, source)
    with model_errors(f"The adapter {adapter} cannot be merged into {source}", "Use an adapter that peft can merge."):
        merged = wrapped.merge_and_unload()
    check_change(before, probe_logits(merged), adapter, source)
    return merged


def load_adapter(network: Any, adapter: str, source: str) -> Any:
    """`network` with the adapter's layers put in, in place, as a peft model.

    Raises `ModelError` when its folder has no weights, it is of a kind that cannot be merged, or it does not fit `source`. Warns
    (`ModelWarning`) where it names another base.
    """
    from peft import PeftModel

    folder = Path(adapter).expanduser()
    if folder.is_dir() and not any(folder.glob("adapter_model.*")):
        if any(folder.glob("model*.safetensors")):
            raise ModelError(f"{adapter} holds a whole model, and an adapter_config.json without its adapter. Delete adapter_config.json.")
        raise ModelError(
            f"The adapter {adapter} has no weights: adapter_model.safetensors is missing in its folder. Copy or save it again."
        )
    config = adapter_config(adapter) or {}
    _check_mergeable(config, adapter)
    _compare_bases(str(config.get("base_model_name_or_path") or ""), network, adapter, source)
    with model_errors(f"The adapter {adapter} does not fit {source}", FIT), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
        wrapped = PeftModel.from_pretrained(network, adapter)
        loaded = wrapped.load_adapter(adapter, "default")  # once more: only this call tells which weights found no place
        misfits = [*loaded.missing_keys, *(key for key in loaded.unexpected_keys if "lora_" in key)]
        if misfits:
            raise ValueError(f"no match for {misfits[0]}")
    return wrapped.eval()


def _check_mergeable(config: Mapping[str, Any], adapter: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    kinds = {kind.value: tuner for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    kind = str(config.get("peft_type"))
    if kind in kinds and not hasattr(kinds[kind], "merge_and_unload"):
        raise ModelError(f"The adapter {adapter} is of the type {kind}, which changes no weights: {_UNMERGED}")
    if config.get("alora_invocation_tokens"):
        raise ModelError(f"The adapter {adapter} is an activated LoRA, which acts only after its invocation tokens: {_UNMERGED}")


def _compare_bases(named: str, network: Any, adapter: str, source: str) -> None:
    """Warn where an adapter names a base that cannot be the one given; folders of other machines tell nothing."""
    given = {source.rstrip("/"), str(network.config.get_text_config()._name_or_path), str(network.config._name_or_path)}
    known = named and (Path(named).exists() or not named.startswith(("/", "~", ".")))
    if known and Path(named).name not in {Path(name.partition("@")[0]).name for name in given}:
        warnings.warn(f"The adapter {adapter} was trained on {named}, and is put on {source}.", ModelWarning, stacklevel=3)


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
