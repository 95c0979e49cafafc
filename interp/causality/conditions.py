"""Conditions as data: which model answers, what is done to it, and which part that plays in a claim of cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.doses import response
from interp.causality.removals import Target
from interp.causality.sweep import Condition
from interp.evaluation.answer_columns import CONDITION
from interp.interventions.edits import Edit

Role = Literal["baseline", "treatment", "control", "reference"]
COLUMNS = list(CONDITION)
"""What every table of answers says of the condition of a row."""

RANDOM = ("random_ablation", "random_steering")
"""The controls that every claim is tested against: differences of ordinary answers, each draw of which counts by itself, too."""

OWN_REMOVAL = "mean_difference_own_removal"
"""The mean difference, removed in the way that suits it best."""


def arm(
    condition: str,
    model: Literal["base", "tuned"],
    role: Role,
    edit: Edit | None = None,
    directions: str = "",
    replicate: int = 0,
    asked: tuple[str, ...] | None = None,
    samples: int | None = None,
    title: str | None = None,
) -> Condition:
    """One condition of a trial; a control has many, which differ in `replicate` (from 1) and in what was drawn.

    `title` is what is done, in words; by default that `directions` are added or removed.
    """
    added = edit is not None and edit.phase == "response"
    kind = "none" if edit is None else "subtract" if edit.kind == "add" and not added else edit.kind
    done = title or f"{directions} {'added' if added else 'removed'}"
    shown = model.capitalize() if edit is None else f"{model.capitalize()}, {done}"
    values = (condition, model, role, replicate, kind, directions, shown)
    return Condition(f"{condition} {replicate}", edit, asked, samples, dict(zip(COLUMNS, values, strict=True)))


@dataclass(frozen=True)
class Control:
    """Directions that are removed and added like those of a claim: a control, or a reference that is shown beside them."""

    name: str
    """Its conditions are `NAME_ablation` and `NAME_steering`."""
    directions: str
    """What they are, in words."""
    removed: Sequence[Target]
    """Draws of as many directions as the claim removes, with a rise as long as its own; each for itself."""
    added: Sequence[Float[torch.Tensor, " d_model"]] = ()
    """Draws of one direction."""
    full_draws: int = 0
    """Draws that are asked every question; each of the others is asked a part."""
    role: Role = "control"


def condition_table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for every condition (replicate 0), and one for every replicate of a control: `COLUMNS` and those of `response`."""
    rows = []
    for _, own in answers.groupby("condition", sort=False):
        about = own.iloc[0][COLUMNS].to_dict()
        rows.append(about | {"replicate": 0} | response(own))
        for replicate, part in own[own["replicate"] > 0].groupby("replicate"):
            rows.append(about | {"replicate": replicate, "title": f"{about['title']}, draw {replicate}"} | response(part))
    return pd.DataFrame(rows)
