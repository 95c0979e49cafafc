"""Run directories: every step is written whole or not at all, and a finished step is loaded, not run again.

A step's key is a hash of the package's version, its name, its config and the keys of its inputs, so a changed setting reruns
that step and all that follow. A step is written under a temporary name and renamed when whole: a kill loses the running
step at most.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from interp import __version__
from interp.core.errors import ArtifactError, reason_of
from interp.core.files import file_sha256, read_json, write_json
from interp.core.fingerprints import content_key, environment
from interp.core.memory import peak_memory_bytes

STEP_FILE = "step.json"
if TYPE_CHECKING:
    pass

MANIFEST_FILE = "manifest.json"
EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class StepResult:
    """A finished step: its name, its key and the folder that holds what it wrote."""

    name: str
    key: str
    folder: Path
    loaded: bool
    """True when the step was found finished and not run."""

    def path(self, filename: str) -> Path:
        """Path of one file of the step; raises `ArtifactError` when it is not there."""
        path = self.folder / filename
        if not path.exists():
            raise ArtifactError(f"{self.folder} lacks {filename}. Delete that folder and run again to make it anew.")
        return path

    def record(self) -> dict[str, Any]:
        """What `step.json` says: config, inputs, files with hashes, duration, peak memory."""
        return read_json(self.folder / STEP_FILE)


class RunDirectory:
    """One run on disk: `<root>/steps/<name>-<key>/`, a manifest and a lock. Use it inside `with run.lock():`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.steps_folder = self.root / "steps"
        if self.root.exists() and not self.root.is_dir():
            raise ArtifactError(f"{self.root} is a file. Choose another --out folder.")

    @contextmanager
    def lock(self) -> Iterator[RunDirectory]:
        """Hold the directory alone; raises `ArtifactError` at once when another process holds it."""
        try:
            self.steps_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"Cannot make {self.steps_folder}: {error.strerror}. Choose another --out folder.") from error
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(f"Another run holds {self.root}. Wait for it to end, or choose another folder with --out.") from error
        except OSError as error:
            raise ArtifactError(f"Cannot write into {self.root}: {reason_of(error)}. Choose another --out folder.") from error
        try:
            for leftover in self.steps_folder.glob("*.partial"):  # of a killed run; the lock says nobody writes it now
                shutil.rmtree(leftover)
            yield self
        finally:
            lock.release()

    def step(
        self,
        name: str,
        config: BaseModel | Mapping[str, Any],
        inputs: Mapping[str, str | StepResult],
        make: Callable[[Path], None],
    ) -> StepResult:
        """Run `make(folder)` unless a finished result with the same config and inputs is there.

        `inputs` are earlier results, or strings that identify outside data (a content hash). Whatever `make` raises passes
        through, and nothing of the step is left.
        """
        made_of = _made_of(name, config, inputs)
        key = content_key(made_of)
        folder = self.steps_folder / f"{name}-{key[:12]}"
        if (folder / STEP_FILE).is_file():
            return StepResult(name, key, folder, loaded=True)
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True)
        started = time.monotonic()
        try:
            make(partial)
            files = {str(p.relative_to(partial)): file_sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
            record = {
                "key": key,
                **made_of,
                "files": files,
                "duration_s": round(time.monotonic() - started, 3),
                "peak_memory_bytes": peak_memory_bytes(),
                **environment(),
            }
            write_json(partial / STEP_FILE, record)
            shutil.rmtree(folder, ignore_errors=True)  # one that lost its step.json is no result, and cannot be replaced
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        unfinished = self.unfinished(name, config, inputs)
        shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):  # others are there
            unfinished.parent.rmdir()
        return StepResult(name, key, folder, loaded=False)

    def unfinished(self, name: str, config: BaseModel | Mapping[str, Any], inputs: Mapping[str, str | StepResult]) -> Path:
        """Where the step may keep what it has so far, so that after a kill it goes on in the middle; gone when it is finished."""
        return self.root / "unfinished" / f"{name}-{content_key(_made_of(name, config, inputs))[:12]}"

    def write_manifest(self, config: BaseModel, results: Mapping[str, StepResult], extra: Mapping[str, Any]) -> None:
        """Name everything that made the run: config, environment, and each step's record."""
        write_json(
            self.root / MANIFEST_FILE,
            {
                "config": config.model_dump(mode="json"),
                **environment(),
                **extra,
                "steps": {name: result.record() | {"folder": result.folder.name} for name, result in results.items()},
            },
        )

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run; raises `ArtifactError` when there is none."""
        path = self.root / MANIFEST_FILE
        if not path.is_file():
            raise ArtifactError(f"{self.root} holds no finished run ({MANIFEST_FILE} is missing). Finish it with 'personascope run'.")
        return read_json(path)

    def result(self, name: str) -> StepResult:
        """The result of step `name` that the manifest points at."""
        steps = self.manifest()["steps"]
        if name not in steps:
            raise ArtifactError(f"{self.root} has no step '{name}'. It has: {', '.join(steps)}.")
        return StepResult(name, steps[name]["key"], self.steps_folder / steps[name]["folder"], loaded=True)


def _made_of(name: str, config: BaseModel | Mapping[str, Any], inputs: Mapping[str, str | StepResult]) -> dict[str, Any]:
    """Everything that a step's result depends on."""
    return {
        "version": __version__,
        "step": name,
        "config": config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config),
        "inputs": {key: value.key if isinstance(value, StepResult) else value for key, value in inputs.items()},
    }
