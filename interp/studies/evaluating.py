"""Ask models a question set, judge what they answer, and compare: rates by model, format and group, paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator

from interp.artifacts import MANIFEST_FILE, RunDirectory, StepResult, content_key, file_sha256
from interp.causality.doses import response
from interp.causality.effects import Effect, paired_effect
from interp.causality.sweep import Condition, sweep
from interp.config import StepConfig
from interp.editing.edits import Edit
from interp.errors import ArtifactError, ConfigError
from interp.evaluation.grading import Grader
from interp.evaluation.judges.probe import judge_files
from interp.evaluation.questions import Question, Split, read_questions
from interp.evaluation.questions.formats import in_format
from interp.evaluation.questions.question import Format
from interp.generation import SamplingConfig
from interp.model_sources import choose_device, choose_dtype, model_identity, open_model
from interp.models import LanguageModel
from interp.progress import progress
from interp.studies.inputs import default_grader
from interp.studies.opened import OpenRun
from interp.studies.tables import plain_records

EDITS = {"base": None, "tuned": None, "ablated": "ablated", "steered": "steered"}
"""What stands behind the @ of RUN@WHAT, and the edit of the run's verdict that it is."""


class EvaluateConfig(StepConfig):
    """Models on a question set."""

    models: list[str] = Field(min_length=1)
    """Hub ids, folders, adapters, GGUF files, embedded:NAME; or RUN@base, @tuned, @ablated, @steered: models of a run."""
    base: str | None = None
    """Base of adapters that do not name it."""
    questions: str = "everyday"
    """Name of a shipped question set, path of a YAML file like it, or of a published emergent-misalignment one."""
    split: Split | Literal["all"] = "held_out"
    """Which questions: `held_out`, `selection` or `all`."""
    formats: list[Format] = Field(default=["plain"], min_length=1)
    """Answer formats that every question is asked in: plain, json, template."""
    samples: int = Field(default=1, ge=1)
    """Answers to each question and format."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are drawn."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the answers."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto` (bfloat16 on CUDA, float32 on the CPU), `float32`, `bfloat16`, `float16`."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along."""

    @field_validator("models", "formats")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("one is named twice: name each once")
        return names


@dataclass(frozen=True)
class Evaluation:
    """What was asked, answered and judged."""

    steps: list[StepResult]
    answers: pd.DataFrame
    """A row an answer: model, question_id, group, format, system, question, sample, answer, and what the judges say."""
    rates: pd.DataFrame
    """Rows by model: `by` is all, format or group, `value` which; rate, interval and denominators as everywhere."""
    differences: pd.DataFrame
    """Hostile rate of each further model minus that of the first, paired by question."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "verb": "evaluate",
            "folders": [str(step.folder) for step in self.steps],
            "rates": plain_records(self.rates),
            "differences": plain_records(self.differences),
        }


@dataclass(frozen=True)
class _Subject:
    """A model that is asked; it is opened only when it has something to answer."""

    name: str
    identity: str
    open: Callable[[], tuple[LanguageModel, Edit | None]]


def evaluate(config: EvaluateConfig, folder: Path, quiet: bool = False, announce: Callable[[str], None] = lambda line: None) -> Evaluation:
    """Ask, judge and compare; a model whose answers are in `folder` is not asked again, and a killed one goes on in the middle.

    Raises `PersonascopeError` for a model, a run or a question set that cannot be used.
    """
    questions = _questions(config)
    subjects = [_subject(spec, config) for spec in config.models]
    device = choose_device(config.device)
    settings = {
        "questions": [question.model_dump(mode="json") for question in questions],
        "samples": config.samples,
        "sampling": config.sampling.model_dump(),
        "seed": config.seed,
        "device": device.type,
        "dtype": str(choose_dtype(config.dtype, device)),
    }
    judges = content_key([file_sha256(path) for path in judge_files()])
    grader = cache(lambda: default_grader())
    steps = []
    _check_folder(folder)
    with RunDirectory(folder).lock() as run:
        for subject in subjects:
            inputs = {"model": subject.identity, "judges": judges}
            unfinished = run.unfinished("answers", settings, inputs)
            made = run.step("answers", settings, inputs, partial(_answer, subject, questions, config, grader, quiet, unfinished))
            steps.append(made)
            announce(f"{subject.name}: {'found' if made.loaded else 'answered'}, {made.folder}")
        run.write_manifest(config, {f"answers of {subject.name}": made for subject, made in zip(subjects, steps, strict=True)}, {})
    own = [pd.read_parquet(made.path("answers.parquet")).assign(model=s.name) for s, made in zip(subjects, steps, strict=True)]
    answers = pd.concat(own, ignore_index=True)
    alike = _one_question_in_all_formats(answers)
    return Evaluation(steps, answers, rate_table(alike), _differences(alike, [s.name for s in subjects], config.seed))


def _one_question_in_all_formats(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers with the plain question's id in every format: they are as alike as others to one question."""
    return answers.assign(question_id=answers["question_id"].str.replace(r"@(json|template)$", "", regex=True))


def _check_folder(folder: Path) -> None:
    """Raise `ArtifactError` for a folder that holds something else, whose manifest would be lost."""
    if (folder / MANIFEST_FILE).is_file() and "models" not in RunDirectory(folder).manifest()["config"]:
        raise ArtifactError(f"{folder} holds another run. Choose another folder with --out.")


def _questions(config: EvaluateConfig) -> list[Question]:
    chosen = read_questions(config.questions)
    plain = chosen.questions if config.split == "all" else chosen.split(config.split)
    return [in_format(question, name) for name in config.formats for question in plain]


def _subject(spec: str, config: EvaluateConfig) -> _Subject:
    """A source of models, or RUN@WHAT. Raises `ConfigError` for a run's model that is not one of `EDITS`."""
    folder, at, what = spec.rpartition("@")
    if at and (Path(folder) / MANIFEST_FILE).is_file():
        if what not in EDITS:
            raise ConfigError(f"{spec}: a run has no model '{what}'. Use {', '.join(f'{folder}@{name}' for name in EDITS)}.")
        run = OpenRun(folder, None if config.device == "auto" else config.device, quiet=True)
        edit = None if EDITS[what] is None else run.verdict_edit(what)
        on_base = what in ("base", "steered")
        return _Subject(
            spec, content_key([run.inputs, on_base, edit and edit.key]), lambda: (run.bench.base if on_base else run.bench.tuned, edit)
        )
    identity = content_key([model_identity(spec), config.base and model_identity(config.base)])
    return _Subject(spec, identity, lambda: (open_model(spec, config.base, config.device, config.dtype, config.trust_remote_code), None))


def _answer(
    subject: _Subject,
    questions: Sequence[Question],
    config: EvaluateConfig,
    grader: Callable[[], Grader],
    quiet: bool,
    unfinished: Path,
    folder: Path,
) -> None:
    """Write answers.parquet with everything needed to judge them again, and what the judges say."""
    model, edit = subject.open()
    with progress(f"{subject.name}: answers", len(questions) * config.samples, quiet) as advance:
        answers = sweep(model, [Condition("", edit)], questions, config.samples, config.sampling, config.seed, advance, unfinished)
    told = pd.DataFrame([{"question_id": q.id, "format": q.format, "system": q.system} for q in questions])
    grader().grade(answers.drop(columns="condition").merge(told, on="question_id")).to_parquet(folder / "answers.parquet")


def rate_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Rates of every model: over all answers, by format and by group. Columns model, by, value and those of `response`."""
    rows = []
    for model, own in answers.groupby("model", sort=False):
        rows.append({"model": model, "by": "all", "value": "", **response(own)})
        for by in ("format", "group"):
            rows += [{"model": model, "by": by, "value": value, **response(part)} for value, part in own.groupby(by, sort=False)]
    return pd.DataFrame(rows)


def _differences(answers: pd.DataFrame, models: Sequence[str], seed: int) -> pd.DataFrame:
    """A row for each model but the first: difference, low, high, p, cohens_h, questions; NaN where too few are shared."""
    first, *others = (answers[answers["model"] == model] for model in models)
    rows = []
    for own in others:
        effect = paired_effect(own, first, seed)
        found = asdict(effect) if effect else dict.fromkeys((part.name for part in fields(Effect)), math.nan)
        rows.append({"model": own["model"].iloc[0], "against": models[0], **found})
    return pd.DataFrame(rows)
