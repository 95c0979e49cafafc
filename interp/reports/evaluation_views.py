"""What each section of an evaluation's page shows, as plain data: models with their signs, rates in order, measures, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from interp.reports import numbers
from interp.reports.evaluation_figure import By
from interp.reports.plotting import sign
from interp.reports.views import Answer, answer, in_groups

Record = Mapping[str, Any]

SECTIONS: dict[By, str] = {"all": "Rates", "format": "By answer format", "group": "By group of questions"}
INTERVALS = {
    "beta_binomial": "Intervals are 95 % credible ones of a beta-binomial model: every question has its own rate, and how alike answers to "
    "one question are is not estimated but averaged over.",
    "wilson": "Intervals are Wilson's at 95 %, for as many independent answers as these are worth: those to one question are alike.",
    "bootstrap": "Intervals are 95 % percentiles of a bootstrap that draws whole questions again; with few questions, or where such "
    "answers are rare, it is too short.",
}
MEASURES = {
    "choices": "Choice accuracy: share of harmless multiple-choice questions answered right, 25 % by guessing.",
    "perplexity": "Perplexity: of neutral text; lower is better.",
    "letters": "Letters: probability of the letter that stands before the one of two answers that shows the trait; 50 % prefers neither.",
    "continuations": "Continuations: how much likelier the one of two answers is that shows the trait; above 0 the model prefers it.",
}
"""What measures mean, by their short names."""
FACTS = {"questions": "Questions", "split": "Split", "formats": "Formats", "samples": "Samples of each question"}
"""Settings shown above the rates, where the config has them."""
MANY = 500
"""Answers of one model from which a decimal of a percent means something."""


@dataclass(frozen=True)
class Model:
    """A model as the page names and marks it."""

    name: str
    short: str
    role: str
    """Its colour."""
    glyph: str


def models(rates: pd.DataFrame) -> dict[str, Model]:
    """Every model of the table by its whole name, in order."""
    names = dict(zip(rates["model"], rates["short"], strict=True))
    signs = ((name, short, sign(place)) for place, (name, short) in enumerate(names.items()))
    return {name: Model(name, short, role, glyph) for name, short, (role, _, glyph) in signs}


def tells_more(rates: pd.DataFrame, by: By) -> bool:
    """Whether rates by format or group say more than those of single questions, whose intervals span nearly everything."""
    part = rates[rates["by"] == by]
    return bool(part["value"].nunique() > 1 and (part["questions"].isna() | (part["questions"] > 1)).any())


def headline(shown: Mapping[str, Model], word: str) -> str:
    """The question that the page answers."""
    if len(shown) == 1:
        return f"How often does {next(iter(shown.values())).short} give {word} answers?"
    return f"How often do {len(shown) or 'the'} models give {word} answers?"


def finding(rates: Sequence[Record], shown: Mapping[str, Model], word: str) -> str:
    """The answer in a sentence: the rate, or the lowest and the highest."""
    rows = sorted((row for row in rates if row["by"] == "all" and not numbers.absent(row["rate"])), key=lambda row: float(row["rate"]))
    if not rows:
        return "No answer was scored and coherent, so there is no rate."
    places, ends = digits(rates), (rows[0], rows[-1])
    low, high = (
        f"{numbers.percent(row['rate'], digits=places)} {numbers.percent_interval(row['low'], row['high'], places)}" for row in ends
    )
    lowest, highest = (shown[row["model"]].short for row in ends)
    if len(rows) == 1:
        return f"{lowest}: {low} of the {numbers.count(rows[0]['n'])} answers that count are {word}."
    return f"From {low} of answers ({lowest}) to {high} ({highest})."


def moment(created: Any) -> str:
    """`2026-03-01 12:00 UTC`, to the minute; what is no moment is printed as it is."""
    try:
        made = datetime.fromisoformat(str(created))
    except ValueError:
        return numbers.visible(created)
    return f"{made:%Y-%m-%d %H:%M} {made.tzname() or ''}".strip()


def facts(config: Record) -> dict[str, str]:
    """The settings that tell what was asked, as far as they are plain values."""
    found = {}
    for key, title in FACTS.items():
        value = config.get(key)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = ", ".join(value)
        if isinstance(value, str | int):
            found[title] = numbers.visible(value)
    return found


def digits(rates: Sequence[Record]) -> int:
    """Decimals of percents on this page."""
    return int(any(row["by"] == "all" and (row["n"] or 0) >= MANY for row in rates))


def by_value(rates: Sequence[Record], by: By) -> dict[str, list[Record]]:
    """Rows of a kind under their value, in order of appearance."""
    return in_groups((row for row in rates if row["by"] == by), lambda row: "" if by == "all" else str(row["value"]))


def by_model(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Rows under their model, in order of appearance."""
    return in_groups(rows, lambda row: str(row["model"]))


def measures(rows: Sequence[Record]) -> dict[str, Any]:
    """A table of models by measures: `heads` (measure, title, unit), `cells` of each model, and what the measures mean."""
    units = {str(row["measure"]): str(row["unit"] or "") for row in rows}
    cells = {model: {str(row["measure"]): _measured(row) for row in own} for model, own in by_model(rows).items()}
    taken = {str(row["name"]) for row in rows}
    meanings = [text for name, text in MEASURES.items() if name in taken or (name == "choices" and "options" in taken)]
    heads = [(name, name.replace("_", " ").capitalize(), unit) for name, unit in units.items()]
    return {"heads": heads, "cells": cells, "meanings": " ".join(meanings)}


def _measured(row: Record) -> dict[str, str]:
    """A measure of one model as printed: value, interval where there is one, and number of items."""
    value, low, high, n = row["value"], row["low"], row["high"], numbers.count(row["n"])
    if row["unit"] in ("share", "probability"):
        return {"value": numbers.percent(value), "interval": numbers.percent_interval(low, high), "n": n}
    interval = "" if numbers.absent(low) or numbers.absent(high) else f"[{numbers.significant(low)}, {numbers.significant(high)}]"
    return {"value": numbers.significant(value), "interval": interval, "n": n}


def samples(rows: Sequence[Record], judge: Record, words: Record) -> dict[str, list[tuple[str, Answer]]]:
    """Questions and answers under their model, with the judge's word on each."""
    least = judge["coherent_above"]
    shown: dict[str, list[tuple[str, Answer]]] = {}
    for row in rows:
        coherent = None if least is None or numbers.absent(row["coherence"]) else row["coherence"] > least
        sample = (numbers.visible(row["question"]), answer({**row, "coherent": coherent}, words))
        shown.setdefault(str(row["model"]), []).append(sample)
    return shown
