"""Reading and writing files: a reader never sees half a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from interp.core.errors import ArtifactError, ConfigError, reason_of

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(target: Path, suffix: str = ".partial") -> Iterator[Path]:
    """The path of a file or folder to be made beside `target`: renamed to it when the block ends, removed when the block raises.

    Folders above it are made.
    """
    partial, old = target.with_name(target.name + suffix), target.with_name(f".{target.name}.old")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)  # of a killed process
    try:
        yield partial
        if target.is_dir():  # nothing can be renamed over a folder that holds files
            _remove(old)
            os.replace(target, old)
        try:
            os.replace(partial, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        _remove(partial)
        if target.exists():
            _remove(old)


@contextmanager
def saving(target: Path, suffix: str = ".partial") -> Iterator[Path]:
    """As `replacing`; raises `ArtifactError` for what cannot be written."""
    try:
        with replacing(target, suffix) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"Cannot write {target}: {reason_of(error)}. Free some space, or choose another folder.") from error


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """UTF-8 text without its byte-order mark; raises `ConfigError` for a file that cannot be read or has another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}. Give a file that can be read.") from error


def read_jsonl(path: Path) -> list[Any]:
    """Values of a JSON-lines file, blank lines left out; raises `ConfigError` naming the line that is no JSON.

    A line feed alone ends a line: within a string JSON allows U+2028, U+2029 and U+0085, at which `str.splitlines` would cut.
    """
    values = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        text = line.removeprefix("\ufeff")  # of files that were joined
        if text.strip():
            try:
                values.append(json.loads(text))
            except ValueError as error:
                raise ConfigError(f"{path}, line {number} is no JSON: {error}. Write one value on each line.") from error
    return values


def read_json(path: Path) -> Any:
    """Read JSON; raises `ArtifactError` naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {path}: {error}. Delete its folder and run again.") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with saving(path, _own_suffix()) as partial:
        partial.write_text(text, encoding="utf-8")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all."""
    with saving(path, _own_suffix()) as partial:
        table.to_parquet(partial)


def _own_suffix() -> str:
    return f".{os.getpid()}.partial"  # another process may write the same file


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
