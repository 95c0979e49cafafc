"""The conditions of a run as rows of the page: grouped by edit, controls told from treatments, random draws under their pool."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from interp.reports import wording

Role = Literal["unedited", "persona", "reference", "control"]

GROUPS = {"none": "Unedited", "project_out": "Ablation: projected out", "add": "Steering: added"}
"""Edit as saved, and the heading of its group; the order is the page's."""

TRANSCRIPT_CONDITIONS = ("base", "tuned", "ablated", "random_ablation", "steered")
"""What the transcripts show side by side."""


@dataclass(frozen=True)
class Row:
    """One condition. `draws` are the single random draws that a pooled control is made of."""

    name: str
    title: str
    description: str
    edited_model: str
    role: Role
    rate: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int
    coherence: float | None
    coherence_low: float | None
    coherence_high: float | None
    draws: list[Row] = field(default_factory=list)

    @property
    def spoken(self) -> str:
        """Rate, interval and denominator, in words."""
        return (
            f"{wording.percent(self.rate)} {wording.percent_interval(self.low, self.high)} judged hostile, "
            f"{wording.hits(self.rate, self.n)} scored, {self.unscored} unscored"
        )


@dataclass(frozen=True)
class Group:
    """Rows that share a kind of edit."""

    heading: str
    rows: list[Row]


def role_of(name: str, edit: str) -> Role:
    """Whether a condition is the treatment, a control, or a reference beside it."""
    if edit == "none":
        return "unedited"
    if name in ("ablated", "steered"):
        return "persona"
    return "reference" if name.startswith(("persona_vector", "mean_difference")) else "control"


def labels_like(name: str) -> str:
    """Group of hand-labelled answers that are like those of a condition."""
    if name in ("base", "tuned"):
        return name
    if name.startswith("random"):
        return "random"
    return "ablated" if "ablat" in name else "steered"


def grouped(conditions: pd.DataFrame) -> list[Group]:
    """The saved table as groups of rows, in the order of `GROUPS`; groups without rows are left out."""
    records = conditions.to_dict("records")
    names = {record["condition"] for record in records}
    rows: dict[str, Row] = {}
    groups: dict[str, list[Row]] = {heading: [] for heading in [*GROUPS.values(), "Other"]}
    draws: list[tuple[str, Row]] = []
    for record in records:
        row = _row(record)
        match = re.fullmatch(r"(.+)_\d+", row.name)
        if match and match[1] in names:
            draws.append((match[1], row))
            continue
        rows[row.name] = row
        groups[GROUPS.get(record["edit"], "Other")].append(row)
    for pool, row in draws:
        rows[pool].draws.append(row)
    return [Group(heading, members) for heading, members in groups.items() if members]


def _row(record: dict[Any, Any]) -> Row:
    def value(key: str) -> float | None:
        return None if wording.absent(record[key]) else float(record[key])

    return Row(
        name=str(record["condition"]),
        title=str(record["title"]),
        description="" if wording.absent(record["description"]) else str(record["description"]),
        edited_model=str(record["edited_model"]),
        role=role_of(str(record["condition"]), str(record["edit"])),
        rate=value("rate"),
        low=value("low"),
        high=value("high"),
        n=int(value("n") or 0),
        unscored=int(value("unscored") or 0),
        coherence=value("coherence"),
        coherence_low=value("coherence_low"),
        coherence_high=value("coherence_high"),
    )
