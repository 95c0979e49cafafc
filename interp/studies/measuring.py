"""What is measured of a model besides its answers: capability kept, and what it leans to when nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from interp.core.artifacts import Artifact
from interp.core.progress import progress
from interp.core.vocabulary import MeasureName
from interp.evaluation.choices import read_choices
from interp.evaluation.measures import (
    choice_accuracy,
    continuation_preference,
    letter_preference,
    mean_with_interval,
    option_accuracy,
    perplexity,
)
from interp.interventions.hooks import edited
from interp.models.language_model import LanguageModel
from interp.studies.subjects import Subject
from interp.traits import Trait
from sae_training.corpus import read_corpus

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
