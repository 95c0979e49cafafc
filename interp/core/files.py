"""Reading and writing files: a reader never sees half a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.core.errors import ArtifactError, reason_of

if TYPE_CHECKING:
    import pandas as pd


def read_json(path: Path) -> Any:
    """Read JSON; raises `ArtifactError` naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {path}: {error}. Delete its folder and run again.") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON by a temporary name and a rename, so that a reader never sees half a file."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically."""
    _write(path, lambda temporary: table.to_parquet(temporary))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process may write the same file
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ArtifactError(f"Cannot write {path}: {reason_of(error)}. Free some space, or choose another --out folder.") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
