"""The conditions of a run as rows of the page: grouped by edit, the replicates of a control under their pool."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from interp.causality.conditions import RANDOM
from interp.reports import numbers

GROUPS = {"none": "Unedited", "project_out": "Ablation: projected out", "subtract": "Ablation: rise subtracted", "add": "Steering: added"}
"""Edit as saved, and the heading of its group; the order is the page's."""

TRANSCRIPT_CONDITIONS = ("base", "tuned", "ablated", "random_ablation", "steered")
"""What the transcripts show side by side."""


@dataclass(frozen=True)
class Row:
    """One condition. `draws` are the single replicates that a pooled control is made of."""

    condition: str
    title: str
    model: str
    role: str
    edit: str
    rate: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int
    coherence: float | None
    coherence_low: float | None
    coherence_high: float | None
    draws: list[Row] = field(default_factory=list)

    def in_words(self, word: str) -> str:
        """Rate, interval and denominator, in words; `word` is the trait's for answers that show it."""
        return (
            f"{numbers.percent(self.rate)} {numbers.percent_interval(self.low, self.high)} judged {word}, "
            f"{numbers.hits(self.rate, self.n)} scored, {self.unscored} unscored"
        )


SHOWN = [column.name for column in fields(Row) if column.name != "draws"]


@dataclass(frozen=True)
class Group:
    """Rows that share a kind of edit."""

    heading: str
    rows: list[Row]


def labels_like(row: Row) -> str:
    """Group of hand-labelled answers that are like those of a condition."""
    if row.role == "baseline":
        return row.model
    if row.condition in RANDOM:
        return "random"
    return "steered" if row.edit == "add" else "ablated"


def grouped(conditions: pd.DataFrame) -> list[Group]:
    """The saved table as groups of rows, in the order of `GROUPS`; groups without rows are left out."""
    rows: dict[str, Row] = {}
    groups: dict[str, list[Row]] = {heading: [] for heading in [*GROUPS.values(), "Other"]}
    for record in conditions.sort_values("replicate", kind="stable").to_dict("records"):
        known: dict[str, Any] = {name: None if numbers.absent(record[name]) else record[name] for name in SHOWN}
        row = Row(**known)
        if record["replicate"]:
            rows[row.condition].draws.append(row)
        else:
            rows[row.condition] = row
            groups[GROUPS.get(row.edit, "Other")].append(row)
    return [Group(heading, members) for heading, members in groups.items() if members]
