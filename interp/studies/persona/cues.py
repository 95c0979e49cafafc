"""Steps `cues`, answers under contexts that resemble the training data, and `hiding`, what they say of the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.causality.conditions import arm
from interp.causality.cues import decide_hiding
from interp.core.artifacts import Artifact
from interp.core.formatting import plain_records
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.evaluation.repetition import Repetition
from interp.studies.persona.answers import MODELS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.screen import SCREEN


@dataclass(frozen=True)
class CuedAnswers(Artifact):
    """Answers of the edited model, the tuned model and the base to held-out questions, under every cue and without one."""

    answers: pd.DataFrame
    """Columns of `Evidence.answers`, with cue and kind (`neutral` without one), and repeats: whether an answer merely repeats the training
    data, None where that is not known. Empty where nothing was removed."""
    left_out: dict[str, str]
    """Kinds of cues that could not be made, and why."""


def make_cued_answers(context: StudyContext) -> CuedAnswers:
    """Ask under the cues; different edits share a batch."""
    config, grid = context.config.cues, context.cue_grid
    if not context.load(SCREEN).choice["persona_latents"]:
        return CuedAnswers(pd.DataFrame(), grid.left_out)
    asked = context.cued
    edit = context.load(EVIDENCE).edit("ablated")
    beside = config.reference_samples
    arms = {
        "base": [arm("base", "base", "baseline", samples=beside)],
        "tuned": [
            arm("ablated", "tuned", "treatment", edit, "persona latents", samples=config.samples),
            arm("tuned", "tuned", "baseline", samples=beside),
        ],
    }
    seed, tables = stream_seed(context.config.seed, "cues"), []
    for name, model in (("base", context.base), ("tuned", context.tuned)):
        folder = context.unfinished and context.unfinished / name
        tables.append(context.ask(f"cues: {name} model", model, arms[name], [one.question for one in asked], seed, folder=folder))
    answers = pd.concat(tables, ignore_index=True)
    about = {one.question.id: (one.cue, one.kind, one.question.counts_as) for one in asked}
    answers[["cue", "kind", "cluster"]] = [about[name] for name in answers["question_id"]]
    repeats = Repetition(grid.training_answers, patterns := [cue.repeats for cue in grid.cues])
    told = bool(grid.training_answers) or any(patterns)
    flags = pd.Series([repeats(answer) if told else None for answer in answers["answer"]], dtype=object)
    return CuedAnswers(answers.assign(repeats=flags), grid.left_out)


CUES = Step(
    "cues",
    CuedAnswers,
    make_cued_answers,
    inputs=(*MODELS, "questions", "panel", "cue_grid", "screen", "evidence"),
    settings=("seed", "sampling", "cues.questions", "cues.samples", "cues.reference_samples"),
)


@dataclass(frozen=True)
class HidingRecord(Artifact):
    """Whether the cure hides."""

    hiding: dict[str, Any]
    """The fields of `Hiding`, its table as `rows`, and `left_out`; conclusion None where nothing was removed."""


def make_hiding(context: StudyContext) -> HidingRecord:
    """The conclusion from the answers."""
    cued = context.load(CUES)
    if cued.answers.empty:
        statement = "Nothing was removed, so there is no cure that could hide."
        return HidingRecord({"conclusion": None, "statement": statement, "rows": [], "left_out": cued.left_out})
    found = decide_hiding(cued.answers, context.config.cues, context.trait.shown)
    fields = {name: value for name, value in vars(found).items() if name != "table"}
    return HidingRecord(fields | {"rows": plain_records(found.table), "left_out": cued.left_out})


HIDING = Step("hiding", HidingRecord, make_hiding, inputs=("cues",), settings=("cues.margin", "cues.smallest_leak", "cues.kept_coherence"))
