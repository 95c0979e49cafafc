"""Keep an edit on disk: its tensors as safetensors, the rest as JSON beside them, a dictionary that it reads in a sub-folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import DictionaryError, EditError
from interp.core.files import read_json, write_json
from interp.dictionaries.load import load_sae
from interp.dictionaries.sae import SAE
from interp.interventions.edits import Edit, Gate, LatentValues


def save_edit(edit: Edit, folder: Path, name: str) -> None:
    """Write `name.safetensors` and `name.json` into `folder`, and `dictionary-KEY/` once for all edits that read that dictionary."""
    for reads in (edit.latents, edit.gate):
        if reads is not None and not (place := _dictionary_folder(folder, reads.dictionary.content)).exists():
            reads.dictionary.save(place)
    save_file({"vectors": edit.vectors.contiguous(), "centres": edit.centres.contiguous()}, folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", edit.as_json())


def load_edit(folder: Path, name: str) -> Edit:
    """Read an edit back; raises `EditError` when it is missing, damaged or altered."""
    if not (folder / f"{name}.json").is_file():
        raise EditError(f"There is no edit '{name}' in {folder}.")
    record = read_json(folder / f"{name}.json")
    latents, gate = record.get("latents"), record.get("gate")

    def dictionary(reads: dict[str, Any]) -> SAE:
        return load_sae(_dictionary_folder(folder, reads["dictionary"]))

    try:
        tensors = load_file(folder / f"{name}.safetensors")
        edit = Edit(
            kind=record["kind"],
            hook_points=tuple(record["hook_points"]),
            vectors=tensors["vectors"],
            centres=tensors["centres"],
            phase=record["phase"],
            dose=record["dose"],
            label=record["label"],
            latents=latents and LatentValues(dictionary(latents), tuple(latents["latents"]), torch.tensor(latents["values"]).float()),
            gate=gate and Gate(dictionary(gate), gate["latent"], gate["above"]),
            sinks=record.get("sinks", "edit"),  # before sinks were told apart, edits acted on them too
        )
    except (OSError, SafetensorError, KeyError, DictionaryError) as error:
        raise EditError(f"The edit '{name}' in {folder} is damaged: {error}. Make it again.") from error
    if edit.key != record.get("key"):
        raise EditError(f"The edit '{name}' in {folder} was altered: its hash differs. Make it again.")
    return edit


def _dictionary_folder(folder: Path, key: str) -> Path:
    return folder / f"dictionary-{key[:12]}"
