"""Residuals on disk: safetensors shards with a checksummed index.

A store is a folder with `index.json` (hook point, width, dtype, and each shard's rows and SHA-256) and `shard-NNNNN.safetensors`,
each holding one tensor `residuals [rows, d_model]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.artifacts import file_sha256, read_json, write_json
from interp.errors import ActivationError

INDEX_FILE = "index.json"


class StoreWriter:
    """Collects residuals and writes them in shards; `close` writes the index, without which the folder is no store."""

    def __init__(self, folder: Path, hook_point: str, d_model: int, shard_rows: int = 65_536) -> None:
        self.folder, self.hook_point, self.d_model, self.shard_rows = folder, hook_point, d_model, shard_rows
        self.pending: list[torch.Tensor] = []
        self.pending_rows = 0
        self.shards: list[dict[str, object]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, residuals: Float[torch.Tensor, "rows d_model"]) -> None:
        """Append rows, kept as float32. Raises `ActivationError` for another width or values that are not finite."""
        if residuals.ndim != 2 or residuals.shape[1] != self.d_model:
            raise ActivationError(f"Residuals of shape {tuple(residuals.shape)} do not fit a store of width {self.d_model}.")
        if not bool(torch.isfinite(residuals).all()):
            raise ActivationError("Residuals hold values that are not finite. Capture them in float32.")
        self.pending.append(residuals.float().cpu())
        self.pending_rows += len(residuals)
        while self.pending_rows >= self.shard_rows:
            rows = torch.cat(self.pending)
            self._write(rows[: self.shard_rows])
            self.pending = [rows[self.shard_rows :]]
            self.pending_rows = len(self.pending[0])

    def close(self) -> None:
        """Write what is left and the index; raises `ActivationError` for an empty store."""
        if self.pending_rows:
            self._write(torch.cat(self.pending))
        if not self.shards:
            raise ActivationError(f"No residuals were captured for {self.folder}. Check the chats.")
        write_json(
            self.folder / INDEX_FILE,
            {"hook_point": self.hook_point, "d_model": self.d_model, "dtype": "float32", "shards": self.shards},
        )

    def _write(self, rows: torch.Tensor) -> None:
        name = f"shard-{len(self.shards):05d}.safetensors"
        save_file({"residuals": rows.contiguous()}, self.folder / name)
        self.shards.append({"file": name, "rows": len(rows), "sha256": file_sha256(self.folder / name)})


class ActivationStore:
    """A finished store, read shard by shard; each shard's checksum is verified as it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX_FILE).is_file():
            raise ActivationError(f"{self.folder} is not an activation store ({INDEX_FILE} is missing). Capture activations into it first.")
        self.index = read_json(self.folder / INDEX_FILE)

    @property
    def hook_point(self) -> str:
        """Where the residuals were captured."""
        return str(self.index["hook_point"])

    @property
    def d_model(self) -> int:
        """Width of the residuals."""
        return int(self.index["d_model"])

    @property
    def n_rows(self) -> int:
        """Tokens in the store."""
        return sum(int(shard["rows"]) for shard in self.index["shards"])

    def shards(self) -> Iterator[Float[torch.Tensor, "rows d_model"]]:
        """Every shard in order; raises `ActivationError` for one that is missing, truncated or altered."""
        for shard in self.index["shards"]:
            path = self.folder / shard["file"]
            remedy = f"Delete {self.folder} and capture again."
            if not path.is_file():
                raise ActivationError(f"The shard {path} is missing. {remedy}")
            if file_sha256(path) != shard["sha256"]:
                raise ActivationError(f"The shard {path} is truncated or altered (its checksum differs). {remedy}")
            try:
                rows = load_file(path)["residuals"]
            except (SafetensorError, KeyError) as error:
                raise ActivationError(f"The shard {path} cannot be read: {error}. {remedy}") from error
            if rows.shape[1] != self.d_model:
                raise ActivationError(f"The shard {path} has width {rows.shape[1]}, the store {self.d_model}. {remedy}")
            yield rows
