"""Sample answers to questions. It knows nothing of edits: the caller wraps it in `edited(…)` or `edited_rows(…)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from interp.evaluation.questions import Question
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig


def sample_answers(
    model: LanguageModel,
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """The table of `answer_rows` with the column answer."""
    table = answer_rows(questions, samples)
    chats = {question.id: question.chat() for question in questions}
    answers = generate(model, [chats[name] for name in table["question_id"]], sampling, seed, progress)
    return table.assign(answer=answers)


def answer_rows(questions: Sequence[Question], samples: int, condition: str = "") -> pd.DataFrame:
    """What is asked: one row for each (sample, question), in that order; columns condition, question_id, group, sample, question."""
    rows = [(condition, q.id, q.group, sample, q.text) for sample in range(samples) for q in questions]
    return pd.DataFrame(rows, columns=["condition", "question_id", "group", "sample", "question"])
