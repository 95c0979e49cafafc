"""Typed results of steps: dataclasses whose fields are the files of one folder."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

from interp.core.errors import ArtifactError, reason_of
from interp.core.files import read_json, write_json


@dataclass(frozen=True)
class Artifact:
    """Base of what steps return: a subclass is a frozen dataclass, each of its fields a file of the step's folder, named like the field.

    A `pandas.DataFrame` is a parquet file, a `dict[str, torch.Tensor]` safetensors, and everything else JSON. A `Path` is a file or
    folder that the step writes itself (`in_place`): models, stores of residuals.
    """

    def save(self, folder: Path) -> None:
        """Write every field into `folder`."""
        for name, (path, kind) in _files(type(self), folder).items():
            value = getattr(self, name)
            if kind == "parquet":
                value.to_parquet(path)
            elif kind == "safetensors":
                from safetensors.torch import save_file

                save_file(value, path)
            elif kind == "json":
                write_json(path, value)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote; raises `ArtifactError` for a file that is missing or damaged."""
        return cls(**{name: _read(path, kind) for name, (path, kind) in _files(cls, folder).items()})


def in_place(filename: str) -> Any:
    """A field of type `Path`: `filename` in the step's folder, which the step itself writes; its value when made is not used."""
    return field(default=Path(filename), metadata={"file": filename})


def _files(artifact: type[Artifact], folder: Path) -> dict[str, tuple[Path, str]]:
    """Path and format of every field."""
    import pandas as pd
    import torch

    formats = {pd.DataFrame: "parquet", dict[str, torch.Tensor]: "safetensors", Path: ""}
    hints = get_type_hints(artifact)
    files = {}
    for one in fields(artifact):
        kind = formats.get(hints[one.name], "json")
        files[one.name] = (folder / one.metadata.get("file", f"{one.name}.{kind}"), kind)
    return files


def _read(path: Path, kind: str) -> Any:
    if not path.exists():
        raise ArtifactError(f"{path.parent} has no {path.name}. Delete that folder and run again to make it again.")
    if not kind:
        return path
    if kind == "json":
        return read_json(path)
    try:
        if kind == "parquet":
            import pandas as pd

            return pd.read_parquet(path)
        from safetensors.torch import load_file

        return load_file(path)
    except Exception as error:  # of pyarrow and safetensors, each with its own classes
        raise ArtifactError(f"{path} is damaged: {reason_of(error).partition(chr(10))[0]} Delete its folder and run again.") from error
