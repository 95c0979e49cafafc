"""Scored answers to selection questions under edits, kept in the screen's unfinished folder."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from interp.causality.sweep import Condition
from interp.core.fingerprints import content_key
from interp.core.streams import stream_seed
from interp.models.language_model import LanguageModel
from interp.studies.persona.context import StudyContext


def ask_selection(
    context: StudyContext, label: str, model: LanguageModel, conditions: Sequence[Condition], questions: int, stream: str
) -> pd.DataFrame:
    """Scored answers to the first `questions` selection questions under every condition; `stream` names the random numbers."""
    asked, seed = context.questions.split("selection", questions), stream_seed(context.config.seed, "screen", stream)
    folder = None
    if context.unfinished is not None:
        keys = [[condition.name, condition.samples, *(edit.key for edit in condition.edits)] for condition in conditions]
        folder = context.unfinished / content_key([model is context.base, keys, [q.id for q in asked], seed])[:16]
    return context.ask(f"screen: {label}", model, conditions, asked, seed, folder=folder)
