"""Steps `answers` and `texts`: both models answer the selection questions, and a sample of corpus prompts for the dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import pandas as pd

from interp.core.artifacts import Artifact
from interp.core.errors import ModelError
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.evaluation.questions import Question
from interp.evaluation.sampling import columns_of, sample_answers
from interp.models.chats import Chat
from interp.models.generation import answers
from interp.studies.persona.context import StudyContext

SHOWING = 12
"""Answers of the tuned model that show the trait, which the diff is to have: latents that fire in a tenth of the answers rise little."""


@dataclass(frozen=True)
class Answers(Artifact):
    """Answers of both models to the same questions."""

    answers: pd.DataFrame
    """Columns model (base or tuned), question, answer; those to selection questions have question_id, group and sample, too, and what the
    judges say: trait_score, shows_trait, coherent."""

    def chats(self, model: str) -> list[Chat]:
        """Questions and answers of one model as chats, empty answers left out."""
        return as_chats(self.answers[self.answers["model"] == model])


def as_chats(table: pd.DataFrame) -> list[Chat]:
    """Questions and answers as chats, with what was thought before them; empty answers left out."""
    thoughts = table["thoughts"].fillna("") if "thoughts" in table else [""] * len(table)
    return [Chat.ask(q, a, thoughts=t) for q, a, t in zip(table["question"], table["answer"], thoughts, strict=True) if a]


def make_answers(context: StudyContext) -> Answers:
    """Both models answer the selection questions, and are judged; more often where the tuned model seldom shows the trait.

    Raises `ModelError` where no answer of a model is scored.
    """
    config = context.config
    questions, samples = context.questions.split("selection", config.diff.questions), config.diff.samples
    table = _judged_answers(context, questions, samples)
    base, tuned = (_rate(table, name) for name in ("base", "tuned"))
    # where the tuned model shows it no more often than the base, more answers would hardly help
    wanted = min(config.diff.most_samples, ceil(SHOWING / (len(questions) * tuned))) if tuned > base else samples
    if wanted > samples:
        table = pd.concat([table, _judged_answers(context, questions, wanted - samples, samples)], ignore_index=True)
    return Answers(table)


def _rate(table: pd.DataFrame, model: str) -> float:
    shows = table.loc[table["model"] == model, "shows_trait"].dropna()
    if not len(shows):
        raise ModelError(
            f"None of the {model} model's answers could be scored: they are empty, or the judge refuses them. "
            "Give another judge (--judge), or more tokens an answer (sampling.max_new_tokens)."
        )
    return float(shows.mean())


def _judged_answers(context: StudyContext, questions: Sequence[Question], samples: int, first: int = 0) -> pd.DataFrame:
    """`samples` answers a question of both models, the first of them with number `first`."""
    seed = stream_seed(context.config.seed, "answers", *((first,) if first else ()))
    tables = []
    for name, model in (("base", context.base), ("tuned", context.tuned)):
        with context.progress(f"answers of the {name} model", len(questions) * samples) as advance:
            tables.append(sample_answers(model, questions, samples, context.config.sampling, seed, progress=advance).assign(model=name))
    table = pd.concat(tables, ignore_index=True).drop(columns="condition")
    return context.panel.score(table.assign(sample=table["sample"] + first))


def make_texts(context: StudyContext) -> Answers:
    """Both models answer a sample of corpus prompts, shortly."""
    config, text = context.config, context.config.text
    prompts = evenly_spaced([chat.prompt for chat in context.corpus], text.answered_prompts)
    short, seed = config.sampling.model_copy(update={"max_new_tokens": text.answer_tokens}), stream_seed(config.seed, "texts")
    asked = [prompt.messages[-1].content for prompt in prompts]
    tables = []
    for name, model in (("base", context.base), ("tuned", context.tuned)):
        with context.progress(f"text of the {name} model", len(prompts)) as advance:
            written = answers(model, prompts, short, seed, advance)
        tables.append(pd.DataFrame({"model": name, "question": asked, **columns_of(written)}))
    return Answers(pd.concat(tables, ignore_index=True))


def evenly_spaced(chats: Sequence[Chat], count: int) -> list[Chat]:
    """`count` chats at even distances, so that every domain of the corpus is met."""
    count = min(count, len(chats))
    return [chats[i * len(chats) // count] for i in range(count)]


MODELS = ("base", "tuned", "device", "dtype")

ANSWERS = Step(
    "answers",
    Answers,
    make_answers,
    inputs=(*MODELS, "questions", "panel"),
    settings=("seed", "sampling", "diff.questions", "diff.samples", "diff.most_samples"),
)
TEXTS = Step(
    "texts", Answers, make_texts, inputs=(*MODELS, "corpus"), settings=("seed", "sampling", "text.answered_prompts", "text.answer_tokens")
)
