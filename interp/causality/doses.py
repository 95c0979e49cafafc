"""Choosing a dose: how far a direction can be pushed while answers stay coherent, and where the behaviour is up.

Incoherence is 1 - coherence of the answers, absolute: what the judge finds incoherent in the unedited model counts too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.causality.sweep import Condition
from interp.core.errors import EditError
from interp.evaluation.rates import coherent_rate, trait_rate
from interp.interventions.edits import Edit
from interp.stats.rates import Rate

ROUNDING = 1e-9  # 1 - 0.9 is a little less than 0.1 in binary

Point = tuple[str, float]
"""Name of a direction, and its dose."""


@dataclass(frozen=True)
class Line:
    """A direction whose dose is varied."""

    name: str
    kind: str
    """`latent`, `persona_vector`, `random`, …"""
    edit: Callable[[float], Edit]
    """Dose to the edit that adds the direction at it."""
    unit: float
    """Residual norm that a dose of 1 is."""
    latent: int | None = None
    size: int | None = None
    """Number of latents in a set."""


@dataclass(frozen=True)
class CoherentDoses:
    """What `largest_coherent_doses` found."""

    largest: dict[str, float | None]
    """For each name the largest dose that was measured to be coherent; None where the lowest was already incoherent."""
    responses: pd.DataFrame
    """Every measured point, by name in the order given, then by dose."""
    not_monotone: list[str]
    """Names whose coherence was seen to rise with the dose: what was found for them may not be the largest."""


def dose_responses(points: Sequence[Point], lines: Sequence[Line], ask: Callable[[list[Condition]], pd.DataFrame]) -> pd.DataFrame:
    """The dose-response at `points`, one row each, all asked together.

    Columns: direction, kind, latent, size, dose, absolute_norm, and those of `response`. `ask` takes the conditions to their scored
    answers (columns condition, question_id, shows_trait, coherent): a `sweep`, and whatever judges it.
    """
    known = {line.name: line for line in lines}
    names = [f"{name} at {dose}" for name, dose in points]
    graded = ask([Condition(label, known[name].edit(dose)) for label, (name, dose) in zip(names, points, strict=True)])
    rows = [
        {
            "direction": name,
            "kind": known[name].kind,
            "latent": known[name].latent,
            "size": known[name].size,
            "dose": dose,
            "absolute_norm": dose * known[name].unit,
            **response(graded[graded["condition"] == label]),
        }
        for label, (name, dose) in zip(names, points, strict=True)
    ]
    return pd.DataFrame(rows).astype({"latent": "Int64", "size": "Int64"})


def response(graded: pd.DataFrame) -> dict[str, Any]:
    """Rate of the behaviour and share of coherent answers under one condition, with 95 % intervals over questions."""
    rate, coherence = trait_rate(graded), coherent_rate(graded)
    shown = {"rate": rate.rate, "low": rate.low, "high": rate.high, "n": rate.n, "unscored": rate.unscored}
    return shown | {"coherence": coherence.rate, "coherence_low": coherence.low, "coherence_high": coherence.high}


def outcomes(graded: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The `response` of every condition in order, and its mean `trait_score`, which is finer than a rate on few answers."""
    conditions = graded.groupby("condition", sort=False)
    return {str(name): {"trait_score": float(own["trait_score"].mean()), **response(own)} for name, own in conditions}


def largest_coherent_doses(
    measure: Callable[[list[Point]], pd.DataFrame],
    names: Sequence[str],
    low: float | Mapping[str, float],
    high: float | Mapping[str, float],
    budget: float = 0.10,
    rounds: int = 5,
) -> CoherentDoses:
    """The largest dose of each name in [low, high] whose incoherence is at most `budget`, by bisection of all names at once.

    The range may differ by name. `measure` takes (name, dose) points to a table with one row each (columns direction, dose, coherence,
    coherence_low, coherence_high at least), as `dose_responses` does. It is called once for both ends and at most `rounds` times for
    middles, so the largest coherent dose is found to within `(high - low) / 2**rounds`.

    Bisection assumes that coherence never rises with the dose. Names of which the measured points say otherwise are listed in
    `not_monotone`: a dose within the budget above one that is not, or a coherence surely higher than at a lower dose (intervals
    apart). Raises `EditError` for an empty range, repeated names, or points that `measure` left out.
    """
    lows, highs = ({name: end if isinstance(end, int | float) else end[name] for name in names} for end in (low, high))
    if empty := [f"{lows[name]} to {highs[name]}" for name in names if not 0 < lows[name] < highs[name]]:
        raise EditError(f"There is no range of doses from {empty[0]}. Give 0 < low < high.")
    if len(set(names)) < len(names):
        raise EditError(f"Names of directions must be unique: {', '.join(names)}.")
    if not names:
        return CoherentDoses({}, pd.DataFrame(), [])
    measured: list[pd.DataFrame] = []

    def within(points: list[Point]) -> dict[Point, bool]:
        """Whether answers are coherent at `points`."""
        own = measure(points)
        if sorted(_points(own)) != sorted(points):
            raise EditError(f"{len(points)} doses were to be measured, {len(own)} came back. Return one row for each.")
        measured.append(own)
        return dict(zip(_points(own), _within(own, budget), strict=True))

    coherent = within([(name, dose) for name in names for dose in (lows[name], highs[name])])
    largest: dict[str, float | None] = {
        name: None if not coherent[name, lows[name]] else highs[name] if coherent[name, highs[name]] else lows[name] for name in names
    }
    between = {name: (lows[name], highs[name]) for name in names if largest[name] == lows[name]}  # coherent at the first, not at the second
    for _ in range(rounds if between else 0):
        middles = {name: (lower + upper) / 2 for name, (lower, upper) in between.items()}
        coherent = within(list(middles.items()))
        between = {
            name: (middle, between[name][1]) if coherent[name, middle] else (between[name][0], middle) for name, middle in middles.items()
        }
    largest |= {name: lower for name, (lower, _) in between.items()}
    responses = pd.concat(measured, ignore_index=True)
    own = {name: responses[responses["direction"] == name].sort_values("dose") for name in names}
    return CoherentDoses(largest, pd.concat(own.values(), ignore_index=True), [name for name in names if _rises(own[name], budget)])


def coherent_doses(responses: pd.DataFrame, budget: float = 0.10) -> CoherentDoses:
    """The same of a grid that was measured: for each direction the largest dose up to which every measured one keeps the budget."""
    largest: dict[str, float | None] = {}
    directions = {str(name): own.sort_values("dose") for name, own in responses.groupby("direction", sort=False)}
    for name, own in directions.items():
        kept = own["dose"][_within(own, budget).cummin().astype(bool)]
        largest[name] = float(kept.iloc[-1]) if len(kept) else None
    return CoherentDoses(largest, responses, [name for name, own in directions.items() if _rises(own, budget)])


def _points(responses: pd.DataFrame) -> list[Point]:
    return list(zip(responses["direction"], responses["dose"], strict=True))


def _within(responses: pd.DataFrame, budget: float) -> pd.Series[bool]:
    """Whether each response keeps the budget; nothing measured (NaN) does not."""
    return 1.0 - responses["coherence"] <= budget + ROUNDING


def _rises(own: pd.DataFrame, budget: float) -> bool:
    """Whether coherence rises anywhere along the doses of one direction (rows sorted by dose), surely or across the budget."""
    within = _within(own, budget)
    lowest_high = own["coherence_high"].cummin().shift()  # of all lower doses
    return bool((within & ~within.cummin().astype(bool)).any() or (own["coherence_low"] > lowest_high).any())


def ship_range(responses: pd.DataFrame, base_rate: Rate, budget: float = 0.10) -> dict[str, tuple[float, float] | None]:
    """For each direction the lowest and the highest dose of the range in which the behaviour is up and answers are coherent.

    Up: the interval of the rate lies above that of the base. Coherent: incoherence is at most the budget. In the range every
    measured dose is both; of several such ranges the widest counts, the lowest of equals. None where no dose is both.
    """
    responses = responses.reset_index(drop=True)
    good = (responses["low"] > base_rate.high) & _within(responses, budget)
    ranges: dict[str, tuple[float, float] | None] = {}
    for name, own in good.groupby(responses["direction"], sort=False):
        at = own.groupby(responses["dose"]).all()  # sorted by dose; one that was measured twice must be good twice
        runs = [run.index for _, run in at[at].groupby((~at).cumsum()[at])]
        widest = max(runs, key=lambda doses: doses[-1] - doses[0], default=None)
        ranges[str(name)] = None if widest is None else (float(widest[0]), float(widest[-1]))
    return ranges


def best_dose(responses: pd.DataFrame, coherence_floor: float) -> pd.Series | None:
    """The row with the highest `rate` among those whose `coherence` is at least the floor; the lowest dose of equals.

    None when no dose keeps the answers coherent.
    """
    coherent = responses[responses["coherence"] >= coherence_floor]
    return None if coherent.empty else coherent.sort_values(["rate", "dose"], ascending=[False, True], kind="stable").iloc[0]
