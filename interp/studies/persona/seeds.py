"""The main job with several seeds: a whole run for each, resumable by itself, and one summary of all."""

from __future__ import annotations

import json
import shlex
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.config import validated
from interp.core.errors import ArtifactError, PersonascopeError
from interp.core.files import write_json, write_parquet, write_text
from interp.core.memory import give_back_memory
from interp.core.steps import MANIFEST_FILE, RunDirectory
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.seed_agreement import agreement_of_seeds
from interp.studies.persona.seed_summary import FailedSeed, FinishedSeed, rates_by_seed, seeds_summary, verdict_counts
from interp.studies.persona.study import Study, run_study

SEEDS_FILE, SEEDS_TABLE, ERROR_FILE = "seeds.json", "seeds.parquet", "error.txt"


@dataclass(frozen=True)
class SeedsResult:
    """Runs of one study that differ in their seed."""

    folder: Path
    """Holds a run directory for every seed (`seed-0`, …), `seeds.json` and `seeds.parquet`."""
    summary: dict[str, Any]
    """What `seeds.json` says."""
    rates: pd.DataFrame
    """A row for every seed and condition: the columns of `rates_by_seed`."""

    def __str__(self) -> str:
        columns = ["title", "rate", "low", "high", "sd", "smallest", "largest", "coherence"]
        table = pd.DataFrame(self.summary["rates"]).T[columns]
        shown = table.to_string(index=False, float_format="{:.2f}".format)
        return f"{verdict_counts(self.summary['verdicts'])}: {self.summary['finding']}\n{shown}"

    __repr__ = __str__


def run_seeds(
    config: StudyConfig,
    seeds: int,
    folder: Path,
    quiet: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> SeedsResult:
    """Run or resume the study with the seeds `config.seed`, `config.seed` + 1, …, each in a folder of its own, and merge them.

    A run that fails does not stop the others: it is listed with its error. Raises
    `PersonascopeError` for settings that no seed can run with, and `ArtifactError` where none finishes.
    """
    configs = [validated(StudyConfig, config.model_dump() | {"seed": config.seed + place}, "seeds") for place in range(seeds)]
    if not configs:
        raise ArtifactError("No seed is asked for. Give 1 or more.")
    if (folder / MANIFEST_FILE).is_file():
        raise ArtifactError(
            f"{folder} holds a single run. Choose another --out folder, or move that run to {seed_folder(config.seed)} in one."
        )
    first = Study(config, RunDirectory(folder / seed_folder(config.seed)), quiet)
    first.context.check()
    if config.tuned is not None:
        first.input_key("tuned")
    finished: list[FinishedSeed] = []
    failed: list[FailedSeed] = []
    for own in configs:
        place = folder / seed_folder(own.seed)
        announce(f"seed {own.seed} in {place}")
        try:
            result = run_study(own, place, quiet, announce)
            finished.append(FinishedSeed(own.seed, result.summary, result.steps[EVIDENCE.name].load(EVIDENCE.artifact).answers))
        except Exception as error:  # whatever it is, the other seeds are not lost
            failed.append(FailedSeed(own.seed, _said(error, place), command_of(own, place)))
            announce(f"seed {own.seed} failed: {failed[-1].error}")
        give_back_memory()
    if not finished:
        raise ArtifactError(f"None of the {seeds} seeds finished. The first: {failed[0].error} Repeat it alone with: {failed[0].command}")
    by_seed = {own.seed: own for own in configs}

    def opened(seed: int) -> StudyContext:
        return StudyContext(by_seed[seed], RunDirectory(folder / seed_folder(seed)).result)

    summary = seeds_summary(finished, failed, config) | {"agreement": agreement_of_seeds(finished, opened)}
    rates = rates_by_seed(finished)
    write_parquet(folder / SEEDS_TABLE, rates)
    write_json(folder / SEEDS_FILE, summary)
    return SeedsResult(folder, summary, rates)


def command_of(config: StudyConfig, folder: Path) -> str:
    """The command that runs a study in `folder`: what differs from the defaults as options."""
    default, demo = StudyConfig().model_dump(mode="json"), config.tuned is None
    words = ["personascope", "demo" if demo else "run"]
    for name, value in config.model_dump(mode="json").items():
        if value == default[name] or (name == "name" and demo):
            continue
        if isinstance(value, str | int) and not isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}", str(value)]
        else:
            words += ["--set", f"{name}={json.dumps(value)}"]
    return shlex.join([*words, "--out", str(folder)])


def seed_folder(seed: int) -> str:
    """Name of the run directory of a seed."""
    return f"seed-{seed}"


def _said(error: Exception, place: Path) -> str:
    """An error in one line; the traceback of one that is none of the user's in a file of the run's folder."""
    if isinstance(error, PersonascopeError):
        return str(error)
    path = place / ERROR_FILE
    write_text(path, traceback.format_exc())
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]} (traceback in {path})."
