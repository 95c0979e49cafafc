"""Ask models a question set, judge what they answer, and compare: rates by model, format and group, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from interp.causality.sweep import Condition, sweep
from interp.core.errors import ArtifactError, ConfigError, reason_of
from interp.core.fingerprints import content_key
from interp.core.progress import progress
from interp.core.steps import MANIFEST_FILE, RunDirectory, StepResult
from interp.evaluation.hosted import HostedModel, parse_hosted
from interp.evaluation.panel import open_panel
from interp.evaluation.questions import Question, read_questions
from interp.evaluation.questions.formats import in_format
from interp.evaluation.sampling import sample_hosted
from interp.models.sources import choose_device, choose_dtype
from interp.studies.evaluation import Evaluation, Judged, Words, summarised, write_evaluation
from interp.studies.evaluation_config import EvaluateConfig
from interp.studies.gold import GoldLabels
from interp.studies.measuring import measure_table, measured
from interp.studies.opened import OpenRun
from interp.studies.subjects import Subject, open_subject, run_and_model
from interp.traits import read_trait


def evaluate(config: EvaluateConfig, folder: Path, quiet: bool = False, announce: Callable[[str], None] = lambda line: None) -> Evaluation:
    """Ask, judge and compare; a model whose answers are in `folder` is not asked again, and a killed one resumes in the middle.

    Raises `PersonascopeError` for a model, a run, a judge or a question set that cannot be used.
    """
    if not config.models:
        raise ConfigError("models: none is given. Name at least one.")
    questions = chosen_questions(config)
    runs: dict[str, OpenRun] = {}
    subjects = [_subject(spec, config, runs) for spec in config.models]
    _check_names(subjects)
    _check_used(config)
    settings = {
        "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in questions],
        "samples": config.samples,
        "sampling": config.sampling.model_dump(),
        "seed": config.seed,
    }
    device = choose_device(config.device)
    place = {"device": device.type, "dtype": str(choose_dtype(config.dtype, device))}
    _check_folder(folder)
    run = RunDirectory(folder)
    gold = None if config.labels is None else GoldLabels.read(config.labels)
    trait = read_trait(config.trait)
    panel = open_panel(
        trait, config.judge, questions=questions, prompts=config.judge_prompts, device=config.device, dtype=config.dtype, quiet=quiet
    ).with_thresholds(config.shows_above, config.coherent_above, config.open_counts)
    steps: dict[str, StepResult] = {}
    for subject in subjects:
        inputs = {"model": subject.identity}
        asked = settings if isinstance(subject, HostedModel) else settings | place
        unfinished = run.unfinished("answers", asked, inputs)
        made = run.step("answers", asked, inputs, partial(_answer, subject, questions, config, quiet, unfinished))
        steps[f"answers of {subject.name}"] = made
        announce(f"{subject.name}: {'found' if made.loaded else 'answered'}, {made.folder}")
        if config.measures and not isinstance(subject, HostedModel):
            measures = {"measures": config.measures, "trait": trait.key, **place}
            done = run.step("measures", measures, inputs, partial(measured, subject, config.measures, trait, quiet))
            steps[f"measures of {subject.name}"] = done
    answers = _joined(steps, "answers", config.seed)
    judge = Judged(panel.spec, panel.identity, panel.thresholds, Words.of(trait), panel.known_agreement())
    result = summarised(config, steps, panel.score(answers), measure_table(_joined(steps, "measures", config.seed)), judge, gold)
    run.write_manifest(config, steps, {})
    write_evaluation(folder, result)
    return result


def chosen_questions(config: EvaluateConfig) -> list[Question]:
    """The questions of the split in every format asked for."""
    chosen = read_questions(config.questions or read_trait(config.trait).question_set)
    plain = chosen.questions if config.split == "all" else chosen.split(config.split)
    return [in_format(question, name) for name in config.formats for question in plain]


def _subject(spec: str, config: EvaluateConfig, runs: dict[str, OpenRun]) -> Subject | HostedModel:
    if parse_hosted(spec):
        if config.measures:
            raise ConfigError(
                f"{spec} is hosted, and its probabilities are not at hand. Leave out {', '.join(config.measures)}, or this model."
            )
        return HostedModel(spec)
    return open_subject(spec, config.base, config.device, config.dtype, config.trust_remote_code, runs)


def _check_names(subjects: Sequence[Subject | HostedModel]) -> None:
    names = [subject.name for subject in subjects]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"models: {twice} is named twice. Name each model once.")


def _check_used(config: EvaluateConfig) -> None:
    """Raise `ConfigError` for an option that no model here heeds: those of a run are opened as the run says."""
    plain = [spec for spec in config.models if run_and_model(spec)[0] is None and parse_hosted(spec) is None]
    given = {"base": config.base is not None, "dtype": config.dtype != "auto", "trust_remote_code": config.trust_remote_code}
    if not plain and any(given.values()):
        names = ", ".join(name for name, is_given in given.items() if is_given)
        raise ConfigError(
            f"No model here heeds {names}: models of a run are opened as the run says, hosted ones by their server. Leave it out."
        )


def _check_folder(folder: Path) -> None:
    """Raise `ArtifactError` for a folder that holds something else, whose manifest would be lost."""
    if not (folder / MANIFEST_FILE).is_file():
        return
    manifest: Any = RunDirectory(folder).manifest()
    if not isinstance(manifest, dict) or "models" not in (manifest.get("config") or {}):
        raise ArtifactError(f"{folder} holds another run. Choose another folder with --out.")


def _answer(
    subject: Subject | HostedModel, questions: Sequence[Question], config: EvaluateConfig, quiet: bool, unfinished: Path, folder: Path
) -> None:
    """Write answers.parquet with everything needed to judge them."""
    with progress(f"{subject.name}: answers", len(questions) * config.samples, quiet) as advance:
        if isinstance(subject, HostedModel):
            answers = sample_hosted(subject, questions, config.samples, config.sampling, config.seed, advance, str(unfinished.resolve()))
        else:
            model, edit = subject.open()
            answers = sweep(model, [Condition("", edit)], questions, config.samples, config.sampling, config.seed, advance, unfinished)
    told = pd.DataFrame([{"question_id": q.id, "cluster": q.counts_as, "format": q.format, "system": q.system} for q in questions])
    answers.drop(columns="condition").merge(told, on="question_id").to_parquet(folder / "answers.parquet")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ArtifactError(
            f"{path} is damaged: {reason_of(error).partition(chr(10))[0]} Delete its folder and run the same command again."
        ) from error


def _joined(steps: dict[str, StepResult], kind: str, seed: int) -> pd.DataFrame:
    """The tables of all models, with the columns model and seed, and an id for each answer that does not tell its model."""
    own = {name.removeprefix(f"{kind} of "): made for name, made in steps.items() if name.startswith(f"{kind} of ")}
    tables = [_read(made.path(f"{kind}.parquet")).assign(model=name, seed=seed) for name, made in own.items()]
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if "sample" in joined:
        made = joined[["model", "question_id", "sample", "seed", "answer"]].itertuples(index=False, name=None)
        joined = joined.assign(id=[content_key([str(part) for part in row])[:12] for row in made])
    return joined
