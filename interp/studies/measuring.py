"""What is measured of a model besides its answers: capability kept, and what it leans to when nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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


@dataclass(frozen=True)
class Measure:
    """How a measure is called and taken."""

    words: str
    unit: str
    take: Callable[[LanguageModel, Trait], pd.DataFrame]


MEASURES: dict[str, Measure] = {
    "choices": Measure("choice accuracy, by letter", "share", lambda model, trait: choice_accuracy(model, read_choices().capability)),
    "options": Measure(
        "choice accuracy, by likeliest answer", "share", lambda model, trait: option_accuracy(model, read_choices().capability)
    ),
    "letters": Measure("letter of the trait", "probability", lambda model, trait: letter_preference(model, trait.pairs)),
    "continuations": Measure(
        "continuations, trait shown minus not",
        "nats per token",
        lambda model, trait: continuation_preference(model, trait.pairs),
    ),
    "perplexity": Measure("perplexity of neutral chats", "", lambda model, trait: perplexity(model, read_corpus()[:NEUTRAL_CHATS])),
}


def measured(subject: Subject, names: Sequence[MeasureName], trait: Trait, quiet: bool, folder: Path) -> None:
    """Write measures.parquet: a row for each measure and item, columns measure, item, group, value and those of the measure."""
    model, edit = subject.open()
    tables = []
    with progress(f"{subject.name}: measures", len(names), quiet) as advance, edited(model, edit) if edit else nullcontext():
        for name in names:
            tables.append(MEASURES[name].take(model, trait).assign(measure=name))
            advance(1)
    pd.concat(tables, ignore_index=True).to_parquet(folder / "measures.parquet")


def measure_table(items: pd.DataFrame) -> pd.DataFrame:
    """Mean of every measure of every model over items, with its 95 % t interval; perplexity is that of the mean nats per token."""
    rows = []
    for (model, name), own in items.groupby(["model", "measure"], sort=False) if len(items) else []:
        ends = mean_with_interval(own["value"].tolist())
        value, low, high = np.exp(ends).tolist() if name == "perplexity" else ends
        told = {"name": name, "measure": MEASURES[str(name)].words, "unit": MEASURES[str(name)].unit}
        rows.append({"model": model, **told, "value": value, "low": low, "high": high, "n": len(own)})
    return pd.DataFrame(rows)
