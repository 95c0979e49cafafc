"""Residuals on disk: safetensors shards with a checksummed index.

A store is a folder with `shard-NNNNN.safetensors`, each holding one tensor `[rows, n_models, d_model]` for every hook point, and
`index.json`, which is written last: a folder without it is no store. Row r of every tensor of a shard belongs to the same token,
read by the same models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.config import StepConfig, validated
from interp.core.errors import ActivationError, ConfigError, reason_of
from interp.core.files import file_sha256, read_json, saving, write_json
from interp.core.fingerprints import content_key
from interp.core.tensors import all_finite

INDEX_FILE = "index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Shard(StepConfig):
    """One file of a store."""

    file: str = Field(pattern=r"^shard-\d+\.safetensors$")
    rows: int
    sha256: str


class StoreIndex(StepConfig):
    """What a store holds."""

    version: Literal[2]
    hook_points: list[str] = Field(min_length=1)
    d_model: int = Field(ge=1)
    n_models: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    shards: list[Shard]
    made: dict[str, Any]
    """Where the rows come from, as the writer was told."""


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

        Raises `ConfigError` for settings that make no store, and `ActivationError` for a folder that holds a finished one or cannot
        be made. What a killed writer left in the folder is removed.
        """
        index = {"version": 2, "hook_points": list(hook_points), "d_model": d_model, "n_models": n_models, "dtype": dtype}
        self.index = validated(StoreIndex, {**index, "shards": [], "made": dict(made or {})}, "activation store")
        if shard_rows < 1 or len(set(hook_points)) < len(hook_points):
            raise ConfigError(f"A store of {list(hook_points)}, {shard_rows} rows a shard, cannot be. Name each once; give at least 1 row.")
        self.folder, self.shard_rows = Path(folder), shard_rows
        self.shuffle = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        if (self.folder / INDEX_FILE).exists():
            raise ActivationError(f"{self.folder} already holds an activation store. Delete it, or choose another folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("shard-*.safetensors*"):
                leftover.unlink()
        except OSError as error:
            raise ActivationError(f"Cannot write into {self.folder}: {reason_of(error)}. Choose another folder.") from error
        # Memory that is not written to costs nothing yet.
        self.pending = {name: torch.empty(shard_rows, n_models, d_model, dtype=DTYPES[dtype]) for name in hook_points}
        self.pending_rows = 0

    def add(self, residuals: Mapping[str, Float[torch.Tensor, "rows n_models d_model"]]) -> None:
        """Append rows, one tensor for each hook point, row r of all of them from the same token.

        Raises `ActivationError`, keeping none of these rows, for other hook points, other shapes or values that are not finite in
        the store's dtype; and `ArtifactError` when a shard cannot be written.
        """
        index = self.index
        if set(residuals) != set(index.hook_points):
            raise ActivationError(f"Residuals at {sorted(residuals)} do not fit a store of {sorted(index.hook_points)}. Capture those.")
        n_rows = len(residuals[index.hook_points[0]])
        rows = {name: residuals[name].detach().to("cpu", DTYPES[index.dtype]) for name in index.hook_points}
        for name, tensor in rows.items():
            if tuple(tensor.shape) != (n_rows, index.n_models, index.d_model):
                raise ActivationError(
                    f"Residuals of shape {tuple(tensor.shape)} at {name} do not fit a store of [{n_rows}, {index.n_models}, "
                    f"{index.d_model}] (rows, models, width). Capture them with the model or models that the store is for."
                )
            if not all_finite(tensor):
                raise ActivationError(f"Residuals at {name} hold values that are not finite. Capture them in float32.")
        start = 0
        while start < n_rows:
            taken = min(n_rows - start, self.shard_rows - self.pending_rows)
            for name, tensor in rows.items():
                self.pending[name][self.pending_rows : self.pending_rows + taken] = tensor[start : start + taken]
            self.pending_rows += taken
            start += taken
            if self.pending_rows == self.shard_rows:
                self._write()

    def close(self) -> None:
        """Write what is left and the index; raises `ActivationError` for an empty store, `ArtifactError` for one that cannot be written."""
        if self.pending_rows:
            self._write()
        self.pending = {}
        if not self.index.shards:
            raise ActivationError(f"No residuals were captured for {self.folder}. Check the text they were to come from.")
        write_json(self.folder / INDEX_FILE, self.index.model_dump())

    def _write(self) -> None:
        rows = self.pending_rows
        order = slice(rows) if self.shuffle is None else torch.randperm(rows, generator=self.shuffle)
        path = self.folder / f"shard-{len(self.index.shards):05d}.safetensors"
        with saving(path) as partial:
            save_file({name: tensor[order] for name, tensor in self.pending.items()}, partial)
            sha256 = file_sha256(partial)
        self.index.shards.append(Shard(file=path.name, rows=rows, sha256=sha256))
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
                for shard in self.index.shards:
                    (self.folder / shard.file).unlink(missing_ok=True)


class ActivationStore:
    """A finished store, read shard by shard; a source of residuals to train dictionaries on (`sae_training.feed.Source`)."""

    background = True
    """A shard is read in a thread, while the one before is trained on."""

    def __init__(self, folder: Path) -> None:
        """Raises `ActivationError` for a folder that is no store, or one of another version."""
        self.folder = Path(folder)
        path = self.folder / INDEX_FILE
        if not path.is_file():
            raise ActivationError(f"{self.folder} is not an activation store ({INDEX_FILE} is missing). Capture activations into it first.")
        self._remedy = f"Delete {self.folder} and capture again."
        try:
            self.index = validated(StoreIndex, read_json(path), str(path))
        except ConfigError as error:
            raise ActivationError(f"{error} {self._remedy}") from error
        if not self.index.shards:
            raise ActivationError(f"{path} names no shard. {self._remedy}")

        self.hook_points, self.n_models, self.d_in = tuple(self.index.hook_points), self.index.n_models, self.index.d_model
        self.n_blocks, self.n_rows = len(self.index.shards), sum(shard.rows for shard in self.index.shards)

    @property
    def fingerprint(self) -> str:
        """A hash of the index, which holds the checksums of the shards."""
        return content_key(self.index.model_dump())

    def block(self, number: int) -> dict[str, Float[torch.Tensor, "rows n_models d_model"]]:
        """Residuals of a shard, counted from 0, by hook point, in the store's dtype; its checksum is verified at every reading.

        Raises `ActivationError` for a shard that is missing, truncated, altered, or not what the index says.
        """
        index = self.index
        if not 0 <= number < len(index.shards):
            raise ActivationError(f"The store {self.folder} has no shard {number}; it has {len(index.shards)}. Count from 0.")
        shard = index.shards[number]
        path = self.folder / shard.file
        try:
            if file_sha256(path) != shard.sha256:
                raise ActivationError(f"The shard {path} is truncated or altered (its checksum differs). {self._remedy}")
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ActivationError(f"The shard {path} cannot be read: {reason_of(error)}. {self._remedy}") from error
        layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        expected = dict.fromkeys(index.hook_points, ((shard.rows, index.n_models, index.d_model), DTYPES[index.dtype]))
        if layout != expected:
            raise ActivationError(f"The shard {path} holds {layout}, the index says {expected}. {self._remedy}")
        return {name: tensors[name] for name in index.hook_points}
