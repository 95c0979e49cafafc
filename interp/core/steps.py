"""Steps and run directories: a step declares what it reads, is written whole or not at all, and is loaded where it is finished.

A step's key is a hash of the package's version, its name, the settings that it declares and the keys of its inputs, so a changed
setting re-makes the steps that read it and all that follow from them. Each step has a lock of its own: several processes may work
in one run directory, and one that needs a step which another is making waits for it.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel

from interp import __version__
from interp.core.artifacts import Artifact, existing
from interp.core.errors import ArtifactError, ConfigError, StepWarning, reason_of
from interp.core.files import file_sha256, read_json, replacing, write_json
from interp.core.fingerprints import content_key, environment
from interp.core.memory import peak_memory_bytes

STEP_FILE = "step.json"
MANIFEST_FILE = "manifest.json"
EVALUATION_FILE = "evaluation.json"

ContextT = TypeVar("ContextT")
ArtifactT = TypeVar("ArtifactT", bound=Artifact)


@dataclass(frozen=True)
class Step(Generic[ContextT, ArtifactT]):
    """One step of a study, and everything that its result depends on."""

    name: str
    artifact: type[ArtifactT]
    """What `make` returns."""
    make: Callable[[ContextT], ArtifactT]
    inputs: tuple[str, ...] = ()
    """Earlier steps, and outside data that has a content key, by name."""
    settings: tuple[str, ...] = ()
    """Fields of the study's config that it reads, dotted; a section stands for all its fields."""

    def settings_of(self, config: BaseModel) -> dict[str, Any]:
        """The declared settings and their values; raises `ConfigError` for a field that is not there."""
        values, found = config.model_dump(mode="json"), {}
        for path in self.settings:
            value: Any = values
            for part in path.split("."):
                if not isinstance(value, dict) or part not in value:
                    raise ConfigError(f"There is no setting '{path}'. Correct what the step '{self.name}' declares.")
                value = value[part]
            found[path] = value
        return found


class DeclaredSettings:
    """A config seen by a step: fields that the step does not declare raise `ConfigError`, so that no key is too narrow."""

    def __init__(self, config: BaseModel, step: Step[Any, Any], path: str = "") -> None:
        self._config, self._step, self._path = config, step, path

    def __getattr__(self, name: str) -> Any:
        path, value = f"{self._path}{name}", getattr(self._config, name)
        if any(path == declared or path.startswith(f"{declared}.") for declared in self._step.settings):
            return value
        if isinstance(value, BaseModel) and any(declared.startswith(f"{path}.") for declared in self._step.settings):
            return DeclaredSettings(value, self._step, f"{path}.")
        raise ConfigError(f"The step '{self._step.name}' reads the setting '{path}', which it does not declare. Add it to its settings.")


@dataclass(frozen=True)
class StepResult:
    """A finished step: its name, its key and the folder that holds what it wrote."""

    name: str
    key: str
    folder: Path
    loaded: bool
    """True when the step was finished before and not run."""

    def path(self, filename: str) -> Path:
        """Path of one file of the step; raises `ArtifactError` when it is not there."""
        return existing(self.folder / filename)

    def load(self, artifact: type[ArtifactT]) -> ArtifactT:
        """What the step returned."""
        return artifact.load(self.folder)

    def record(self) -> dict[str, Any]:
        """What `step.json` says: settings, inputs, files with hashes, duration, peak memory."""
        return read_json(self.folder / STEP_FILE)


Settings = BaseModel | Mapping[str, Any]
Inputs = Mapping[str, str | StepResult]
"""Earlier results, or strings that identify outside data (a content key)."""


def step_key(name: str, settings: Settings, inputs: Inputs) -> str:
    """The key of the step with this name, these settings and inputs."""
    return content_key(_origin(name, settings, inputs))


def _origin(name: str, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Everything that a step's result depends on."""
    return {
        "version": __version__,
        "step": name,
        "settings": settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings),
        "inputs": {key: value.key if isinstance(value, StepResult) else value for key, value in inputs.items()},
    }


def _folder_name(name: str, key: str) -> str:
    return f"{name}-{key[:12]}"


class RunDirectory:
    """One run on disk: `<root>/steps/<name>-<key>/`, and a manifest that names the steps of the last study in it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.steps_folder = self.root / "steps"
        if self.root.exists() and not self.root.is_dir():
            raise ArtifactError(f"{self.root} is a file. Choose another --out folder.")

    def step(self, name: str, settings: Settings, inputs: Inputs, make: Callable[[Path], None]) -> StepResult:
        """Run `make(folder)` unless a finished result with the same settings and inputs is there.

        Whatever `make` raises passes through, and nothing of the step is left. While another process makes the same step this
        one waits, with a `StepWarning`.
        """
        origin = _origin(name, settings, inputs)
        key = content_key(origin)
        folder = self.steps_folder / _folder_name(name, key)
        finished = StepResult(name, key, folder, loaded=True)
        if self.is_finished(name, settings, inputs):
            return finished
        with self._lock(folder.name):
            if self.is_finished(name, settings, inputs):  # made by the process that this one waited for
                return finished
            self._clear_leftovers()
            started = time.monotonic()
            with replacing(folder) as partial:
                partial.mkdir()
                make(partial)
                files = {str(p.relative_to(partial)): file_sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
                seconds = round(time.monotonic() - started, 3)
                record = {"key": key, **origin, "files": files, "duration_s": seconds, "peak_memory_bytes": peak_memory_bytes()}
                write_json(partial / STEP_FILE, record | environment())
            unfinished = self.unfinished(name, settings, inputs)
            shutil.rmtree(unfinished, ignore_errors=True)
            with suppress(OSError):  # others are there
                unfinished.parent.rmdir()
        return replace(finished, loaded=False)

    def is_finished(self, name: str, settings: Settings, inputs: Inputs) -> bool:
        """Whether the step would be loaded, not run."""
        return (self.steps_folder / _folder_name(name, step_key(name, settings, inputs)) / STEP_FILE).is_file()

    def unfinished(self, name: str, settings: Settings, inputs: Inputs) -> Path:
        """Where the step may keep what it has so far, so that it resumes in the middle after a kill; gone when it is finished."""
        return self.root / "unfinished" / _folder_name(name, step_key(name, settings, inputs))

    @contextmanager
    def _lock(self, folder_name: str) -> Iterator[None]:
        """Hold one step alone; the lock goes with the process, whatever ends it."""
        lock = self._file_lock(folder_name)
        try:
            self.steps_folder.mkdir(parents=True, exist_ok=True)
            (self.root / ".locks").mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                warnings.warn(f"Another process is making {folder_name} in {self.root}. Waiting for it.", StepWarning, stacklevel=4)
                lock.acquire()
        except OSError as error:
            raise ArtifactError(f"Cannot write into {self.root}: {reason_of(error)}. Choose another --out folder.") from error
        try:
            yield
        finally:
            lock.release()

    def _file_lock(self, folder_name: str) -> FileLock:
        return FileLock(self.root / ".locks" / folder_name)

    def _clear_leftovers(self) -> None:
        """Remove what killed processes left half written: folders whose lock nobody holds."""
        for leftover in self.steps_folder.glob("*.partial"):
            with suppress(Timeout), self._file_lock(leftover.stem).acquire(timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)

    def write_manifest(self, config: BaseModel, results: Mapping[str, StepResult], extra: Mapping[str, Any]) -> None:
        """Name everything that made the run: config, environment, and each step's record."""
        steps = {name: result.record() | {"folder": result.folder.name} for name, result in results.items()}
        manifest = {"config": config.model_dump(mode="json"), **environment(), **extra, "steps": steps}
        write_json(self.root / MANIFEST_FILE, manifest)

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
