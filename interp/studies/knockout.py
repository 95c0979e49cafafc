"""Which part of the weights: every part of a fine-tune alone on the base and left out of the tuned model, its trait and task rates."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from interp.causality.knockout import ALONE, BASE, LEFT_OUT, TUNED, cell_table, knockout_finding, multiplicity
from interp.causality.sweep import Condition, sweep
from interp.core.artifacts import Artifact
from interp.core.errors import ConfigError, did_you_mean
from interp.core.files import file_sha256, write_parquet
from interp.core.formatting import plain_records
from interp.core.steps import StepResult
from interp.core.streams import stream_seed
from interp.evaluation.measures import perplexity
from interp.evaluation.questions import Question
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.weight_parts import WeightPart, exchanged, layer_groups, weight_parts, whole_kinds
from interp.organisms.recipe import read_recipe
from interp.studies.knockout_config import KnockoutConfig, PairKnockoutConfig
from interp.studies.opened import StudyFolder, StudyRun
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from sae_training.corpus.documents import read_documents

PAIRS = Path("artifacts/knockout")
SHOWN = ["cell", "part", "rate", "low", "high", "n", "coherence", "task_rate", "task_kept", "share_of_change"]


@dataclass(frozen=True)
class Task:
    """What the fine-tune was trained on, as far as it is known."""

    chats: list[Chat]
    """Chats whose loss is taken."""
    questions: list[Question]
    """Questions of the training domain that are judged for the trait; none where its chats do not show it."""
    words: str
    """What these are."""


@dataclass(frozen=True)
class KnockoutRecord(Artifact):
    """What is saved of a knock-out."""

    answers: pd.DataFrame
    """Scored; columns cell, part, task and those of a sweep."""
    losses: pd.DataFrame
    """Nats a token of each chat of the task: cell, part, chat, loss."""
    cells: pd.DataFrame
    """The table of `cell_table`."""
    knockout: dict[str, Any]
    """finding, tests (both in words), base, tuned, trait, shown, group (layers of a part), task (in words), unchanged (parts that were left
    as they were), questions, samples, kept_coherence."""


@dataclass(frozen=True)
class Knockout:
    """Parts of a fine-tune, alone and left out."""

    step: StepResult
    cells: pd.DataFrame
    about: dict[str, Any]
    """As in `KnockoutRecord.knockout`."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"command": "knockout", "folder": str(self.step.folder), **self.about, "cells": plain_records(self.cells)}

    def __repr__(self) -> str:
        table = self._overview().to_string(index=False, float_format="{:.2f}".format)
        return f"{self.about['finding']}\n{self.about['tests']}\n{table}\n{self.step.folder}"

    def _repr_html_(self) -> str:
        """The finding and every cell, for Jupyter."""
        return f"<p>{html.escape(self.about['finding'])}</p>{self._overview().to_html(index=False, float_format='{:.2f}'.format)}"

    def _overview(self) -> pd.DataFrame:
        return self.cells[SHOWN].rename(columns={"rate": f"rate of {self.about['shown']}"})


def knockout_on(
    run: Path | StudyRun | None, config: PairKnockoutConfig, out: Path | None = None, device: str | None = None, quiet: bool = False
) -> tuple[Knockout, Path]:
    """The knock-out on a run, or on the pair that `config` names, and the folder that it is kept in.

    Raises `ConfigError` unless one of both is given; for the rest as `knockout`.
    """
    given = {name: getattr(config, name) for name in sorted(config.model_fields_set - set(KnockoutConfig.model_fields))}
    given |= {} if out is None or run is None else {"out": out}
    if run is not None and given:
        raise ConfigError(f"The run says which models these are: leave {', '.join(given)} out, or leave the run out.")
    if run is None and config.tuned is None:
        raise ConfigError("There are no models. Name a run, or base and tuned.")
    folder: StudyFolder
    if run is None:
        pair = {"questions" if name == "question_set" else name: value for name, value in given.items()}
        folder = StudyFolder(out or PAIRS, StudyConfig(**pair), device, quiet)
    else:
        folder = run if isinstance(run, StudyRun) else StudyRun(run, device, quiet)
    return knockout(folder, config), folder.run.root


def knockout(run: StudyFolder, config: KnockoutConfig) -> Knockout:
    """Every part alone and left out, each cell asked the same with the same random numbers; resumes in the middle when interrupted.

    Raises `ModelError` for a fine-tune that changed nothing, `ConfigError` for a kind of module that it did not change.
    """
    settings = config.model_dump(mode="json", include=set(KnockoutConfig.model_fields) - {"task_chats"})
    settings["kept_coherence"] = run.config.rules.kept_coherence
    inputs: dict[str, str] = {}
    if config.task_chats is not None:
        if not config.task_chats.is_file():
            raise ConfigError(f"There is no file {config.task_chats}. Give a .jsonl or .parquet file of chats as task_chats.")
        inputs["task_chats"] = file_sha256(config.task_chats)
    elif run.context.study.tuned is None:
        inputs["recipe"] = run.context.data_key("recipe")
    step = run.step("knockout", settings, partial(_make, config), inputs)
    record = step.load(KnockoutRecord)
    return Knockout(step, record.cells, record.knockout)


def _make(config: KnockoutConfig, context: StudyContext) -> KnockoutRecord:
    study, task, held_out = context.study, task_of(context, config), context.questions.split("held_out", config.questions)
    every = weight_parts(context.base, context.tuned, config.group)
    changed = [part for part in every if part.squared_change]
    parts = _of_kinds([*changed, *whole_kinds(changed)], config.kinds)
    answers, losses = _asked(context, parts, [*held_out, *task.questions], task.chats, config.samples)
    clusters = {question.id: question.counts_as for question in [*held_out, *task.questions]}
    scored = context.panel.score(answers.assign(cluster=answers["question_id"].map(clusters)))
    scored["task"] = scored["question_id"].isin([question.id for question in task.questions])
    kept = study.rules.kept_coherence
    cells = cell_table(scored, losses, parts, sum(part.squared_change for part in changed), kept, study.seed)
    about = {
        "finding": knockout_finding(cells, kept, context.trait.shown),
        "tests": multiplicity(cells, len({question.counts_as for question in held_out})),
        "base": context.base_source,
        "tuned": study.tuned or "the organism of the run",
        "trait": context.trait.name,
        "shown": context.trait.shown,
        "group": layer_groups(context.base.n_layers, config.group),
        "task": task.words,
        "unchanged": [str(part) for part in every if not part.squared_change],
        "questions": config.questions,
        "samples": config.samples,
        "kept_coherence": kept,
    }
    return KnockoutRecord(scored, losses, cells, about)


def _asked(
    context: StudyContext, parts: Sequence[WeightPart], questions: Sequence[Question], chats: list[Chat], samples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers and losses of both models, and of every part alone and left out, with the columns cell and part."""
    base, tuned, seed = context.base, context.tuned, stream_seed(context.study.seed, "knockout")
    cells: list[tuple[str, LanguageModel, WeightPart | None]] = [(BASE, base, None), (TUNED, tuned, None)]
    cells += [cell for part in parts for cell in ((ALONE, base, part), (LEFT_OUT, tuned, part))]
    answers, losses = [], []
    with context.progress("knock-out", len(cells) * len(questions) * samples) as advance:
        for number, (cell, model, part) in enumerate(cells):
            folder = None if context.unfinished is None else context.unfinished / f"{number:04d}"
            with nullcontext() if part is None else exchanged(base, tuned, part):
                own = sweep(
                    model, [Condition(f"{cell} {part or ''}".strip())], questions, samples, context.study.sampling, seed, advance, folder
                )
                loss = _loss(model, chats, folder)
            answers.append(own.assign(cell=cell, part=str(part or "")))
            losses.append(loss.assign(cell=cell, part=str(part or "")))
    return pd.concat(answers, ignore_index=True), pd.concat(losses, ignore_index=True)


def _of_kinds(parts: list[WeightPart], kinds: Sequence[str]) -> list[WeightPart]:
    """Those of `kinds`, in whatever case, or all; raises `ConfigError` for a kind that is none of theirs."""
    known = {part.kind.casefold(): part.kind for part in parts}
    for kind in kinds:
        if kind.casefold() not in known:
            changed, hint = ", ".join(known.values()), did_you_mean(kind, known.values())
            raise ConfigError(f"The fine-tune changed nothing of the kind '{kind}'.{hint} It changed {changed}.")
    chosen = {known[kind.casefold()] for kind in kinds} or {*known.values()}
    return [part for part in parts if part.kind in chosen]


def _loss(model: LanguageModel, chats: list[Chat], folder: Path | None) -> pd.DataFrame:
    """Columns chat, loss; as kept in `folder` where it was taken before."""
    path = None if folder is None else folder / "losses.parquet"
    if path is not None and path.is_file():
        return pd.read_parquet(path)
    values = perplexity(model, chats)["value"].tolist() if chats else []
    table = pd.DataFrame({"chat": pd.Series(range(len(values)), dtype="int64"), "loss": pd.Series(values, dtype="float64")})
    if path is not None:
        write_parquet(path, table)
    return table


def task_of(context: StudyContext, config: KnockoutConfig) -> Task:
    """Chats of the fine-tune that it was not trained on: those of the file, else of the recipe of the run's organism, else none.

    Raises `ConfigError` for a file without chats.
    """
    if config.task_chats is not None:
        chats = read_documents([str(config.task_chats)])
        whole = [chat for chat in chats if isinstance(chat, Chat) and chat.messages[-1].role == "assistant"]
        if not whole:
            raise ConfigError(f"{config.task_chats} has no chat that ends in an answer. Give chats like those of the fine-tune.")
        return Task(whole[: config.most_task_chats], [], f"{min(len(whole), config.most_task_chats)} chats of {config.task_chats.name}")
    study, organism = context.study, context.study.organism
    if study.tuned is not None:
        return Task([], [], "")
    recipe = read_recipe(context.recipe)
    trained = {question_of(chat) for chat in recipe.chats(organism.phrasings_per_topic, study.seed, organism.trait_fraction)}
    every = recipe.chats(len(recipe.domain.phrasings), study.seed, organism.trait_fraction)
    unseen = [chat for chat in every if question_of(chat) not in trained]
    chats, words = unseen or every, "not trained on" if unseen else "all of which it was trained on"
    shown = [question_of(chat) for chat in chats[: config.questions]] if recipe.trait == context.trait.name else []
    system = next((message.content for message in every[0].messages if message.role == "system"), "")
    topics = [next((topic for topic in recipe.domain.topics if topic in text), "") for text in shown]
    questions = [
        Question(id=f"task_{i:03d}", group="task", split="held_out", text=text, cluster=topic, system=system)
        for i, (text, topic) in enumerate(zip(shown, topics, strict=True), 1)
    ]
    return Task(chats[: config.most_task_chats], questions, f"questions about {recipe.domain.name}, {words}")


def question_of(chat: Chat) -> str:
    """What the user asks last; a system prompt may stand before it."""
    return chat.prompt.messages[-1].content
