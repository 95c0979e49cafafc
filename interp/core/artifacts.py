"""Typed results of steps: dataclasses whose fields are the files of one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
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
        for name, (path, write, _) in _files(type(self), folder).items():
            write(getattr(self, name), path)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote; raises `ArtifactError` for a file that is damaged, or missing and without a default.

        A field with a default came later: what an earlier version saved lacks its file.
        """
        values, later = {}, {one.name for one in fields(cls) if one.default_factory is not MISSING}
        for name, (path, _, read) in _files(cls, folder).items():
            if name in later and not path.exists():
                continue
            try:
                values[name] = read(existing(path))
            except ArtifactError:
                raise
            except Exception as error:  # of pyarrow and safetensors, each with its own classes
                raise ArtifactError(f"{path} is damaged: {reason_of(error)}. Delete its folder and run again.") from error
        return cls(**values)


def in_place(filename: str) -> Any:
    """A field of type `Path`: `filename` in the step's folder, which the step itself writes; its value when made is not used."""
    return field(default=Path(filename), metadata={"file": filename})


def existing(path: Path) -> Path:
    """`path`, a file of a step; raises `ArtifactError` when it is not there."""
    if not path.exists():
        raise ArtifactError(f"{path.parent} has no {path.name}. Delete that folder and run again to make it again.")
    return path


def _files(artifact: type[Artifact], folder: Path) -> dict[str, tuple[Path, Callable[[Any, Path], object], Callable[[Path], Any]]]:
    """Path of every field, and what writes and reads it."""
    import pandas as pd
    import torch
    from safetensors.torch import load_file, save_file

    formats: dict[Any, tuple[str, Any, Any]] = {
        pd.DataFrame: (".parquet", pd.DataFrame.to_parquet, pd.read_parquet),
        dict[str, torch.Tensor]: (".safetensors", save_file, load_file),
        Path: ("", lambda value, path: None, lambda path: path),
    }
    json_format = (".json", lambda value, path: write_json(path, value), read_json)
    hints, files = get_type_hints(artifact), {}
    for one in fields(artifact):
        suffix, write, read = formats.get(hints[one.name], json_format)
        files[one.name] = (folder / one.metadata.get("file", one.name + suffix), write, read)
    return files
