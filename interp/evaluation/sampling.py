"""Sample answers to questions. It knows nothing of edits: the caller wraps it in `edited(…)` or `edited_rows(…)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from interp.chats import Chat
from interp.evaluation.questions import Question
from interp.generation import SamplingConfig, generate
from interp.models import LanguageModel


def sample_answers(
    model: LanguageModel,
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    conditions: Sequence[str] = ("",),
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """One row for each (condition, sample, question), in that order; row i of the call to `generate` is row i of the table.

    Columns: condition, question_id, group, sample, question, answer. The uniform numbers behind sample s of a question are
    the same under every condition and for any number of samples, which makes differences between conditions paired.
    """
    asked = [(question, sample) for sample in range(samples) for question in questions]
    answers = generate(
        model,
        [Chat.ask(question.text) for question, _ in asked] * len(conditions),
        sampling,
        seed,
        progress,
        streams=len(asked),
    )
    table = pd.DataFrame(
        [
            {"condition": condition, "question_id": q.id, "group": q.group, "sample": sample, "question": q.text}
            for condition in conditions
            for q, sample in asked
        ]
    )
    table["answer"] = answers
    return table
