"""What a model is called on the command line, and how it is opened: a source of models, or RUN@WHAT."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from interp.core.errors import ConfigError
from interp.core.fingerprints import content_key
from interp.core.steps import MANIFEST_FILE
from interp.interventions.edits import Edit
from interp.models.language_model import LanguageModel
from interp.models.sources import model_identity, open_model
from interp.studies.opened import OpenRun

EDITS = {"base": None, "tuned": None, "ablated": "ablated", "steered": "steered"}
"""What stands after the @ of RUN@WHAT, and the edit of the run's verdict that it is."""


@dataclass(frozen=True)
class Subject:
    """A model that is asked; it is opened only when it has something to answer."""

    name: str
    """As the user wrote it."""
    identity: str
    """Content key of the model's files and of the edit."""
    open: Callable[[], tuple[LanguageModel, Edit | None]]
    """The model, and the edit to apply to it while it answers."""


def open_subject(
    spec: str,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    runs: MutableMapping[str, OpenRun] | None = None,
) -> Subject:
    """A source of models (`base` is that of an adapter that names none), or RUN@base, @tuned, @ablated, @steered.

    A run's models are opened as its settings say; of the options only `device` counts for them, unless it is `auto`. Models of one
    run share its weights where the caller hands the same `runs` to all. Raises `ConfigError` for a run's model that is not one of
    `EDITS`, `ArtifactError` for a run that has no such edit, `ModelError` for a source that is not there.
    """
    folder, what = run_and_model(spec)
    if folder is None:
        identity = content_key([model_identity(spec), base and model_identity(base)])
        return Subject(spec, identity, lambda: (open_model(spec, base, device, dtype, trust_remote_code), None))
    if what not in EDITS:
        raise ConfigError(f"{spec}: a run has no model '{what}'. Use {', '.join(f'{folder}@{name}' for name in EDITS)}.")
    run = _run(folder, device, {} if runs is None else runs)
    edit = None if EDITS[what] is None else run.verdict_edit(what)
    on_base = what in ("base", "steered")
    return Subject(
        spec, content_key([run.inputs, on_base, edit and edit.key]), lambda: (run.context.base if on_base else run.context.tuned, edit)
    )


def run_and_model(spec: str) -> tuple[str | None, str]:
    """The two sides of RUN@WHAT; None and `spec` where the left one is no folder of a run."""
    folder, at, what = spec.rpartition("@")
    return (folder, what) if at and (Path(folder) / MANIFEST_FILE).is_file() else (None, spec)


def _run(folder: str, device: str, runs: MutableMapping[str, OpenRun]) -> OpenRun:
    """The run that `runs` holds already as it is now, else newly opened."""
    root = Path(folder).resolve()
    key = f"{root}|{device}|{(root / MANIFEST_FILE).stat().st_mtime_ns}"
    run = runs.get(key)
    if run is None:
        run = runs[key] = OpenRun(folder, None if device == "auto" else device, quiet=True)
    return run
