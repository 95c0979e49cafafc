"""The adding half of the screen: sets of latents and references, added to the base over doses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from interp.causality.doses import Line, Point, best_dose, dose_responses
from interp.causality.latent_sets import MARGIN, LatentSet
from interp.causality.sweep import Condition
from interp.core.streams import stream_seed
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.selection import ask_selection
from interp.studies.persona.targets import latent_direction

REFERENCES = 2  # differences of ordinary answers in the dose-response
FINALISTS = 3  # doses
DOSE_SHARES = (0.6, 0.8, 1.0, 1.2)
"""Doses of the latents, as shares of the largest dose at which controls stay coherent."""


def screen_doses(context: StudyContext, sets: Sequence[LatentSet], chosen: int, floor: float) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """References and sets of latents over doses, and the best set and dose of those that keep coherence at `floor`; None where none does.

    The doses follow from the largest one at which differences of ordinary answers stay coherent.
    """
    config, directions, every = context.config.screen, context.load(DIRECTIONS), context.config.diff.questions
    ordinary = directions.ordinary_differences(REFERENCES, stream_seed(context.config.seed, "screen", "ordinary differences"))

    def line(name: str, row: Any, kind: str, size: int | None = None) -> Line:
        return Line(name, kind, lambda dose: directions.steering(row, dose, f"add {name}"), directions.unit, size=size)

    controls = [line(f"ordinary {i + 1}", row, "ordinary") for i, row in enumerate(ordinary)]
    named = [line(name.replace("_", " "), row, name) for name, row in directions.named.items()]
    sizes = sorted({1, 16, chosen, max(map(len, sets))} & {len(one) for one in sets})
    dictionary, latents = context.dictionary, context.load(DIFF).latents
    added = [
        line(_called(one), latent_direction(dictionary, latents, one.latents), "latents", len(one)) for one in sets if len(one) in sizes
    ]

    def measure(lines: Sequence[Line], doses: Sequence[float], questions: int, points: Sequence[Point] = ()) -> pd.DataFrame:
        def ask(conditions: list[Condition]) -> pd.DataFrame:
            return ask_selection(context, "adding", context.base, conditions, questions, "finalists" if points else "steering")

        return dose_responses(points or [(one.name, dose) for one in lines for dose in doses], lines, ask)

    of_controls = measure(controls, config.doses, config.questions)
    coherent = of_controls.groupby("dose")["coherence"].mean() >= floor
    edge = float(max(coherent.index[coherent.cummin()], default=min(config.doses)))
    doses = [round(share * edge, 3) for share in DOSE_SHARES]
    first = pd.concat([measure(added, doses, config.questions), measure(named, doses[::2], config.questions)], ignore_index=True)
    candidates = first[(first["kind"] == "latents") & (first["coherence"] >= floor - MARGIN)]
    finalists = candidates.sort_values(["rate", "dose"], ascending=[False, True], kind="stable").head(FINALISTS)
    points = list(zip(finalists["direction"], finalists["dose"], strict=True))
    remeasured = measure(added, (), every, points) if points else first.head(0)
    best = best_dose(remeasured, floor)
    table = pd.concat([remeasured, first, of_controls], ignore_index=True).drop_duplicates(["direction", "dose"])
    places = {one.name: place for place, one in enumerate([*added, *named, *controls])}
    table = table.sort_values(["direction", "dose"], key=lambda c: c.map(places) if c.name == "direction" else c, ignore_index=True)
    return table, None if best is None else {str(name): value for name, value in best.items()}


def _called(latents: LatentSet) -> str:
    return f"latent {latents.latents[0]}" if len(latents) == 1 else f"{len(latents)} latents"
