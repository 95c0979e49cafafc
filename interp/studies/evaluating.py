"""Ask models a question set, judge what they answer, and compare: rates by model, format and group, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.causality.sweep import Condition, sweep
from interp.core.artifacts import Artifact
from interp.core.errors import ArtifactError, ConfigError
from interp.core.fingerprints import content_key
from interp.core.progress import progress
from interp.core.steps import MANIFEST_FILE, RunDirectory, StepResult
from interp.core.vocabulary import MeasureName
from interp.evaluation.choices import read_choices
from interp.evaluation.hosted_model import HostedModel, parse_hosted
from interp.evaluation.measures import (
    choice_accuracy,
    continuation_preference,
    letter_preference,
    mean_with_interval,
    option_accuracy,
    perplexity,
)
from interp.evaluation.panel import Panel, open_panel
from interp.evaluation.questions import Question, read_questions
from interp.evaluation.questions.question import in_format
from interp.evaluation.sampling import sample_hosted
from interp.interventions.hooks import edited
from interp.models.language_model import LanguageModel
from interp.models.sources import checkpoints, choose_device, choose_dtype
from interp.studies.evaluation import Evaluation, Judged, summarised, write_evaluation
from interp.studies.evaluation_config import EvaluateConfig, JudgingConfig
from interp.studies.human_labels import HumanLabels
from interp.studies.opened import StudyRun, Subject, open_subject, run_and_model
from interp.traits import Trait, read_trait
from sae_training.corpus import read_corpus


@dataclass(frozen=True)
class ModelAnswers(Artifact):
    """Answers of one model, with everything needed to judge them."""

    answers: pd.DataFrame
    """Columns of a sweep and question_id, cluster, format, system."""


def panel_of(config: JudgingConfig, questions: Sequence[Question], quiet: bool) -> Panel:
    """The judges that `config` names, to read answers to `questions`; raises `ConfigError`, `ModelError`."""
    return open_panel(
        read_trait(config.trait),
        config.judge,
        questions=questions,
        prompts=config.judge_prompts,
        samples=config.judge_samples,
        device=config.device,
        dtype=config.dtype,
        quiet=quiet,
    )


def evaluate(config: EvaluateConfig, folder: Path, quiet: bool = False, announce: Callable[[str], None] = lambda line: None) -> Evaluation:
    """Ask, judge and compare; a model whose answers are in `folder` is not asked again, and a killed one resumes in the middle.

    Raises `PersonascopeError` for a model, a run, a judge or a question set that cannot be used.
    """
    questions = chosen_questions(config)
    subjects = _subjects(config)
    settings = {
        "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in questions],
        "samples": config.samples,
        "sampling": config.sampling.model_dump(),
        "seed": config.seed,
    }
    device = choose_device(config.device)
    place = {"device": device.type, "dtype": str(choose_dtype(config.dtype, device))}
    run = _open_folder(folder)
    labels = None if config.labels is None else HumanLabels.read(config.labels)
    trait = read_trait(config.trait)
    panel = panel_of(config, questions, quiet).with_thresholds(config.shows_above, config.coherent_above, config.open_counts)
    steps: dict[str, StepResult] = {}
    answers, measures = [], []
    for subject in subjects:
        inputs = {"model": subject.identity}
        asked = settings if isinstance(subject, HostedModel) else settings | place
        unfinished = run.unfinished("answers", asked, inputs)
        step = run.step("answers", asked, inputs, partial(_answer, subject, questions, config, quiet, unfinished))
        steps[f"answers of {subject.name}"] = step
        announce(f"{subject.name}: {'found' if step.loaded else 'answered'}, {step.folder}")
        answers.append(step.load(ModelAnswers).answers.assign(model=subject.name, seed=config.seed))
        if config.measures and not isinstance(subject, HostedModel):
            settings_of = {"measures": config.measures, "trait": trait.key, **place}
            step = run.step("measures", settings_of, inputs, partial(measure, subject, config.measures, trait, quiet))
            steps[f"measures of {subject.name}"] = step
            measures.append(step.load(Measures).measures.assign(model=subject.name, seed=config.seed))
    words = {"trait": trait.name, "shown": trait.shown, "not_shown": trait.not_shown}
    judged = Judged(panel.spec, panel.identity, panel.thresholds, words, panel.known_agreement())
    scored = panel.score(_identified(pd.concat(answers, ignore_index=True)))
    result = summarised(config, steps, scored, measure_table(measures), judged, labels)
    run.write_manifest(config, steps, {})
    write_evaluation(folder, result)
    return result


def chosen_questions(config: EvaluateConfig) -> list[Question]:
    """The questions of the split in every format asked for."""
    chosen = read_questions(config.questions or read_trait(config.trait).question_set)
    plain = chosen.questions if config.split == "all" else chosen.split(config.split)
    return [in_format(question, name) for name in config.formats for question in plain]


def _subjects(config: EvaluateConfig) -> list[Subject | HostedModel]:
    """Raises `ConfigError` for models that are none or named twice, and for options that none of them heeds."""
    if not config.models:
        raise ConfigError("models: none is given. Name at least one.")
    runs: dict[str, StudyRun] = {}
    subjects: list[Subject | HostedModel] = []
    for spec in (step for source in config.models for step in checkpoints(source)):
        if parse_hosted(spec) is None:
            subjects.append(open_subject(spec, config.base, config.device, config.dtype, config.trust_remote_code, runs, config.thinking))
        elif config.measures:
            left_out = ", ".join(config.measures)
            raise ConfigError(f"{spec} is hosted, and its probabilities are not at hand. Leave out {left_out}, or this model.")
        else:
            subjects.append(HostedModel(spec))
    names = [subject.name for subject in subjects]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"models: {twice} is named twice. Name each model once.")
    plain = [spec for spec in config.models if run_and_model(spec)[0] is None and parse_hosted(spec) is None]
    given = {
        "base": config.base is not None,
        "dtype": config.dtype != "auto",
        "trust_remote_code": config.trust_remote_code,
        "thinking": config.thinking,
    }
    if not plain and any(given.values()):
        ignored = ", ".join(name for name, is_given in given.items() if is_given)
        raise ConfigError(
            f"No model here heeds {ignored}: models of a run are opened as the run says, hosted ones by their server. Leave it out."
        )
    return subjects


def _open_folder(folder: Path) -> RunDirectory:
    """Raises `ArtifactError` for a folder that holds something else, whose manifest would be lost."""
    run = RunDirectory(folder)
    if (folder / MANIFEST_FILE).is_file():
        manifest: Any = run.manifest()
        if not isinstance(manifest, dict) or "models" not in (manifest.get("config") or {}):
            raise ArtifactError(f"{folder} holds another run. Choose another folder with --out.")
    return run


def _answer(
    subject: Subject | HostedModel, questions: Sequence[Question], config: EvaluateConfig, quiet: bool, unfinished: Path, folder: Path
) -> None:
    with progress(f"{subject.name}: answers", len(questions) * config.samples, quiet) as advance:
        if isinstance(subject, HostedModel):
            answers = sample_hosted(subject, questions, config.samples, config.sampling, config.seed, advance, str(unfinished.resolve()))
        else:
            model, edit = subject.open()
            answers = sweep(model, [Condition("", edit)], questions, config.samples, config.sampling, config.seed, advance, unfinished)
    asked = pd.DataFrame([{"question_id": q.id, "cluster": q.counts_as, "format": q.format, "system": q.system} for q in questions])
    ModelAnswers(answers.drop(columns="condition").merge(asked, on="question_id")).save(folder)


def _identified(answers: pd.DataFrame) -> pd.DataFrame:
    """With an `id` for each answer, which does not tell its model."""
    rows = answers[["model", "question_id", "sample", "seed", "answer"]].itertuples(index=False, name=None)
    return answers.assign(id=[content_key([str(part) for part in row])[:12] for row in rows])


NEUTRAL_CHATS = 64
Take = Callable[[LanguageModel, Trait], pd.DataFrame]

MEASURES: dict[str, tuple[str, str, Take]] = {
    "choices": ("choice accuracy, by letter", "share", lambda model, trait: choice_accuracy(model, read_choices().capability)),
    "options": ("choice accuracy, by likeliest answer", "share", lambda model, trait: option_accuracy(model, read_choices().capability)),
    "letters": ("letter of the trait", "probability", lambda model, trait: letter_preference(model, trait.pairs)),
    "continuations": (
        "continuations, trait shown minus not",
        "nats per token",
        lambda model, trait: continuation_preference(model, trait.pairs),
    ),
    "perplexity": ("perplexity of neutral chats", "", lambda model, trait: perplexity(model, read_corpus()[:NEUTRAL_CHATS])),
}
"""What each measure is called, its unit, and how it is taken."""


@dataclass(frozen=True)
class Measures(Artifact):
    """Measures of one model."""

    measures: pd.DataFrame
    """A row for each measure and item: measure, item, group, value, and the columns of the measure."""


def measure(subject: Subject, names: Sequence[MeasureName], trait: Trait, quiet: bool, folder: Path) -> None:
    """Take the measures of `names` and save them as `Measures`."""
    model, edit = subject.open()
    tables = []
    with progress(f"{subject.name}: measures", len(names), quiet) as advance, edited(model, edit) if edit else nullcontext():
        for name in names:
            _, _, take = MEASURES[name]
            tables.append(take(model, trait).assign(measure=name))
            advance(1)
    Measures(pd.concat(tables, ignore_index=True)).save(folder)


def measure_table(items: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean of every measure of every model over items, with its 95 % t interval; perplexity is that of the mean nats per token.

    `items` are tables of `Measures` with the column `model`.
    """
    rows = []
    for (model, name), own in pd.concat(items).groupby(["model", "measure"], sort=False) if items else []:
        ends = mean_with_interval(own["value"].tolist())
        value, low, high = np.exp(ends).tolist() if name == "perplexity" else ends
        title, unit, _ = MEASURES[str(name)]
        own_row = {"model": model, "name": name, "measure": title, "unit": unit, "value": value, "low": low, "high": high, "n": len(own)}
        rows.append(own_row)
    return pd.DataFrame(rows)
