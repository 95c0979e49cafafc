"""Sample answers under many edits at once: every (condition, question, sample) is a row of one `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from interp.editing.edits import Edit
from interp.editing.hooks import edited_rows
from interp.errors import EditError
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_answers
from interp.generation import SamplingConfig
from interp.models import LanguageModel


@dataclass(frozen=True)
class Condition:
    """A name and what is done to the model under it."""

    name: str
    edit: Edit | None = None


def sweep(
    model: LanguageModel,
    conditions: Sequence[Condition],
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Answers under all conditions, in the form of `sample_answers`; raises `EditError` for a repeated condition name."""
    names = [condition.name for condition in conditions]
    if len(set(names)) < len(names):
        raise EditError(f"Condition names must be unique: {', '.join(names)}.")
    if all(condition.edit is None for condition in conditions):
        return sample_answers(model, questions, samples, sampling, seed, names, progress)
    rows = [condition.edit for condition in conditions for _ in range(len(questions) * samples)]
    with edited_rows(model, rows):
        return sample_answers(model, questions, samples, sampling, seed, names, progress)
