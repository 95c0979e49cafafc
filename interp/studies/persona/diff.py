"""Step `diff`: statistics of every latent on both models' answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from interp.core.artifacts import Artifact, in_place
from interp.core.steps import Step
from interp.diffing.attribution import attribution
from interp.diffing.pairings import Answers as PairedAnswers
from interp.diffing.pairings import collect
from interp.diffing.rankings import latent_table, ranking_agreement
from interp.studies.persona.answers import ANSWERS, MODELS, as_chats
from interp.studies.persona.context import StudyContext
from interp.studies.persona.directions import DIRECTIONS


@dataclass(frozen=True)
class LatentDiff(Artifact):
    """What changed between base and tuned model, latent by latent."""

    latents: pd.DataFrame
    """A row for every latent: the columns of `latent_table`."""
    agreement: pd.DataFrame
    """How far the ranking metrics agree."""
    moments: Path = in_place("moments.safetensors")
    """The sums that the statistics are made of (`load_diff`)."""


def paired_answers(table: pd.DataFrame, column: str, base: str, tuned: str) -> dict[str, PairedAnswers]:
    """Answers of base and tuned model to the questions that both answered, by model.

    `column` says whose they are, `base` and `tuned` what stands in it.
    """
    table = table[table["answer"] != ""]
    own = {"base": table[table[column] == base], "tuned": table[table[column] == tuned]}
    shared = sorted(set(own["base"]["question_id"]) & set(own["tuned"]["question_id"]))
    index = {question: place for place, question in enumerate(shared)}
    own = {name: rows[rows["question_id"].isin(shared)] for name, rows in own.items()}
    return {name: PairedAnswers(as_chats(rows), [index[question] for question in rows["question_id"]]) for name, rows in own.items()}


def make_diff(context: StudyContext) -> LatentDiff:
    """Both models read both models' answers, paired by question; questions that one left without an answer are left out."""
    answers = paired_answers(context.load(ANSWERS).answers, "model", "base", "tuned")
    pairs = list(zip(*context.pair_chats(context.config.diff.persona_pairs), strict=True))
    total = 2 * sum(len(own.chats) for own in answers.values()) + 2 * len(pairs)
    with context.progress("diffing latents", total) as advance:
        diff = collect(
            context.base,
            context.tuned,
            context.dictionary,
            answers,
            progress=advance,
            folder=context.unfinished,
            identity=context.tuned_source,
        )
        attributed = attribution(context.tuned, context.dictionary, pairs, base=context.base, progress=advance)
    named = context.load(DIRECTIONS).named
    latents = latent_table(diff, context.dictionary, context.config.seed, **named, attribution=attributed)
    diff.save(context.folder / "moments.safetensors")
    return LatentDiff(latents, ranking_agreement(latents))


DIFF = Step(
    "diff",
    LatentDiff,
    make_diff,
    inputs=(*MODELS, "dictionary", "answers", "directions", "pairs"),
    settings=("seed", "diff.persona_pairs"),
)
