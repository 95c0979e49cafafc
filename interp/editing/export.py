"""Keep an edit on disk: its tensors as safetensors, the rest as JSON beside them."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.artifacts import read_json, write_json
from interp.editing.edits import Edit
from interp.errors import EditError


def save_edit(edit: Edit, folder: Path, name: str) -> None:
    """Write `name.safetensors` and `name.json` into `folder`."""
    save_file({"vectors": edit.vectors.contiguous(), "centres": edit.centres.contiguous()}, folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", edit.as_json())


def load_edit(folder: Path, name: str) -> Edit:
    """Read an edit back; raises `EditError` when it is missing, damaged or altered."""
    if not (folder / f"{name}.json").is_file():
        raise EditError(f"There is no edit '{name}' in {folder}.")
    record = read_json(folder / f"{name}.json")
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
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise EditError(f"The edit '{name}' in {folder} is damaged: {error}. Make it again.") from error
    if edit.key != record.get("key"):
        raise EditError(f"The edit '{name}' in {folder} was altered: its hash differs. Make it again.")
    return edit
