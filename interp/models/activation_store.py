"""Residuals on disk: safetensors shards with a checksummed index.

A store is a folder with `shard-NNNNN.safetensors`, each holding one tensor `[rows, n_models, d_model]` for every hook point, and
`index.json` (hook points, width, number of models, dtype, each shard's rows and SHA-256), which is written last: a folder
without it is no store. Row r of every tensor of a shard belongs to the same token, read by the same models.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import ActivationError, ArtifactError
from interp.core.files import file_sha256, read_json, write_json

INDEX_FILE = "index.json"
VERSION = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class StoreWriter:
    """Collects residuals and writes them in shards; at most one shard is held in memory.

    Use it as a context manager, or call `close`. When the block ends with an error, the shards written so far are removed.
    """

    def __init__(
        self,
        folder: Path,
        hook_points: Sequence[str],
        d_model: int,
        n_models: int = 1,
        dtype: str = "float32",
        shard_rows: int = 65_536,
        shuffle_seed: int | None = None,
        made: Mapping[str, Any] | None = None,
    ) -> None:
        """`shuffle_seed` shuffles the rows of each shard; `made` (JSON) is kept in the index and says where the rows come from.

        Raises `ActivationError` for settings that make no store, and for a folder that holds a finished one or cannot be
        made. What a killed writer left in the folder is removed.
        """
        if not hook_points or len(set(hook_points)) < len(hook_points):
            raise ActivationError(f"The hook points of a store must be named, each once, not {list(hook_points)}. Name at least one.")
        if dtype not in DTYPES:
            raise ActivationError(f"A store keeps {' or '.join(DTYPES)}, not '{dtype}'. Choose one of them.")
        for name, value in (("d_model", d_model), ("n_models", n_models), ("shard_rows", shard_rows)):
            if value < 1:
                raise ActivationError(f"{name} of a store is {value}. Give at least 1.")
        self.folder, self.hook_points, self.shard_rows = Path(folder), tuple(hook_points), shard_rows
        self.row_shape, self.dtype, self.made = (n_models, d_model), dtype, dict(made or {})
        self.shuffle = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        self.pending: dict[str, torch.Tensor] = {}
        self.pending_rows = 0
        self.shards: list[dict[str, Any]] = []
        self._prepare_folder()

    def _prepare_folder(self) -> None:
        if (self.folder / INDEX_FILE).exists():
            raise ActivationError(f"{self.folder} already holds an activation store. Delete it, or choose another folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("shard-*.safetensors*"):
                leftover.unlink()
        except OSError as error:
            raise ActivationError(f"Cannot write into {self.folder}: {error.strerror}. Choose another folder.") from error

    def add(self, residuals: Mapping[str, Float[torch.Tensor, "rows n_models d_model"]]) -> None:
        """Append rows, one tensor for each hook point, row r of all of them from the same token.

        Raises `ActivationError`, keeping none of these rows, for other hook points, other shapes or values that are not
        finite in the store's dtype; and when a shard cannot be written.
        """
        if set(residuals) != set(self.hook_points):
            raise ActivationError(f"Residuals at {sorted(residuals)} do not fit a store of {sorted(self.hook_points)}. Capture those.")
        rows = len(residuals[self.hook_points[0]])
        for name, tensor in residuals.items():
            if tuple(tensor.shape) != (rows, *self.row_shape):
                n_models, d_model = self.row_shape
                raise ActivationError(
                    f"Residuals of shape {tuple(tensor.shape)} at {name} do not fit a store of [{rows}, {n_models}, {d_model}] "
                    "(rows, models, width). Capture them with the model or models that the store is for."
                )
        kept = {name: residuals[name].detach().to("cpu", DTYPES[self.dtype]) for name in self.hook_points}
        for name, tensor in kept.items():
            if not _finite(tensor):
                raise ActivationError(f"Residuals at {name} hold values that are not finite. Capture them in float32.")
        start = 0
        while start < rows:
            taken = min(rows - start, self.shard_rows - self.pending_rows)
            self._buffer({name: tensor[start : start + taken] for name, tensor in kept.items()}, taken)
            start += taken
            if self.pending_rows == self.shard_rows:
                self._write()

    def _buffer(self, part: Mapping[str, torch.Tensor], rows: int) -> None:
        for name, tensor in part.items():
            if name not in self.pending:  # memory that is not written to costs nothing yet
                self.pending[name] = torch.empty(self.shard_rows, *self.row_shape, dtype=DTYPES[self.dtype])
            self.pending[name][self.pending_rows : self.pending_rows + rows] = tensor
        self.pending_rows += rows

    def close(self) -> None:
        """Write what is left and the index; raises `ActivationError` for an empty store or one that cannot be written."""
        if self.pending_rows:
            self._write()
        self.pending = {}
        if not self.shards:
            raise ActivationError(f"No residuals were captured for {self.folder}. Check the text they were to come from.")
        n_models, d_model = self.row_shape
        index = {
            "version": VERSION,
            "hook_points": list(self.hook_points),
            "d_model": d_model,
            "n_models": n_models,
            "dtype": self.dtype,
            "shards": self.shards,
            "made": self.made,
        }
        try:
            write_json(self.folder / INDEX_FILE, index)
        except (ArtifactError, TypeError, ValueError) as error:
            raise ActivationError(f"The index of the store {self.folder} cannot be written: {error}") from error

    def _write(self) -> None:
        rows = self.pending_rows
        order = None if self.shuffle is None else torch.randperm(rows, generator=self.shuffle)
        tensors = {name: tensor[:rows] if order is None else tensor[order] for name, tensor in self.pending.items()}
        path = self.folder / f"shard-{len(self.shards):05d}.safetensors"
        partial = path.with_name(path.name + ".partial")
        try:
            save_file(tensors, partial)
            sha256 = file_sha256(partial)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise ActivationError(
                f"The shard {path} cannot be written: {_reason(error)}. Free some space, or choose another folder."
            ) from error
        self.shards.append({"file": path.name, "rows": rows, "sha256": sha256})
        self.pending_rows = 0

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            if not (self.folder / INDEX_FILE).exists():
                self.pending = {}
                for shard in self.shards:
                    (self.folder / shard["file"]).unlink(missing_ok=True)


class ActivationStore:
    """A finished store, read shard by shard; each shard's checksum is verified as it is read."""

    def __init__(self, folder: Path) -> None:
        """Raises `ActivationError` for a folder that is no store, or one of another version."""
        self.folder = Path(folder)
        path = self.folder / INDEX_FILE
        if not path.is_file():
            raise ActivationError(f"{self.folder} is not an activation store ({INDEX_FILE} is missing). Capture activations into it first.")
        self.index = read_json(path)
        found = self.index.get("version", 1) if isinstance(self.index, dict) else None
        if found != VERSION:
            raise ActivationError(f"{path} is of version {found}, this program reads version {VERSION}. {self._remedy}")
        try:
            self.hook_points = tuple(str(name) for name in self.index["hook_points"])
            self.d_model, self.n_models = int(self.index["d_model"]), int(self.index["n_models"])
            self.dtype = str(self.index["dtype"])
            self.made: dict[str, Any] = dict(self.index["made"])
            """Where the rows come from, as the writer was told."""
            self.shard_rows = [int(shard["rows"]) for shard in self.index["shards"]]
            """Tokens in each shard."""
            names = [str(shard["file"]) for shard in self.index["shards"]]
            self._sums = [str(shard["sha256"]) for shard in self.index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ActivationError(f"{path} is damaged: {error!r}. {self._remedy}") from error
        if not names or not self.hook_points or self.dtype not in DTYPES or any(Path(name).name != name for name in names):
            raise ActivationError(f"{path} describes no store (shards {names}, dtype '{self.dtype}'). {self._remedy}")
        self._paths = [self.folder / name for name in names]

    @property
    def _remedy(self) -> str:
        return f"Delete {self.folder} and capture again."

    @property
    def n_rows(self) -> int:
        """Tokens in the store."""
        return sum(self.shard_rows)

    def shard(self, index: int) -> dict[str, Float[torch.Tensor, "rows n_models d_model"]]:
        """Residuals of shard `index` by hook point, in the store's dtype.

        Raises `ActivationError` for a shard that is missing, truncated, altered, or not what the index says.
        """
        if not 0 <= index < len(self._paths):
            raise ActivationError(f"The store {self.folder} has no shard {index}; it has {len(self._paths)}. Count from 0.")
        path = self._paths[index]
        if not path.is_file():
            raise ActivationError(f"The shard {path} is missing. {self._remedy}")
        try:
            if file_sha256(path) != self._sums[index]:
                raise ActivationError(f"The shard {path} is truncated or altered (its checksum differs). {self._remedy}")
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ActivationError(f"The shard {path} cannot be read: {_reason(error)}. {self._remedy}") from error
        expected = (self.shard_rows[index], self.n_models, self.d_model)
        for name in self.hook_points:
            if name not in tensors:
                raise ActivationError(f"The shard {path} lacks {name}; it holds {sorted(tensors)}. {self._remedy}")
            if tuple(tensors[name].shape) != expected or tensors[name].dtype != DTYPES[self.dtype]:
                raise ActivationError(
                    f"The shard {path} holds {tuple(tensors[name].shape)} {tensors[name].dtype} at {name}, "
                    f"the index says {expected} {self.dtype}. {self._remedy}"
                )
        return {name: tensors[name] for name in self.hook_points}

    def shards(self) -> Iterator[dict[str, Float[torch.Tensor, "rows n_models d_model"]]]:
        """Every shard in order; raises as `shard` does."""
        for index in range(len(self._paths)):
            yield self.shard(index)


def _finite(tensor: torch.Tensor) -> bool:
    """One pass, no copy: NaN spreads to both extremes."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _reason(error: Exception) -> str:
    """What the operating system says, else the library."""
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC or "os error 28" in str(error).lower():
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error)
