"""Step `screen`, on selection questions only: which latents to remove and how, which to add, and at what dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interp.causality.doses import Line, Point, best_dose, dose_responses, outcomes
from interp.causality.latent_sets import LatentSet, RemovalScore, doubling_sets, half_point, preferred, rankings
from interp.causality.removals import Removal, removals
from interp.causality.sweep import Condition
from interp.core.artifacts import Artifact
from interp.core.errors import ActivationError
from interp.core.fingerprints import content_key
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.evaluation.rates import coherent_rate
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import MODELS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.targets import latent_direction, latent_target

REFERENCES = 2  # differences of ordinary answers in the dose-response
FINALISTS = 3  # doses
LARGEST_SPAN = 16  # latents; to project many more out leaves little of a small model
COHERENCE_MARGIN = 0.1  # a dozen answers measure coherence roughly, so what it lets pass is measured again
DOSE_SHARES = (0.6, 0.8, 1.0, 1.2)
"""Doses of the latents, as shares of the largest dose at which controls stay coherent."""

Candidate = tuple[LatentSet | None, Removal]


@dataclass(frozen=True)
class Screen(Artifact):
    """What the screen measured and chose."""

    screen: pd.DataFrame
    """A row for everything that was removed: `removed` (a ranking of latents, or `mean_difference`), `size` (number of latents), `kind` and
    `strength` of the removal, `questions` asked, rate with interval, `coherence`, `trait_score`, and whether it was `chosen`."""
    dose_response: pd.DataFrame
    """A row for every direction and dose."""
    choice: dict[str, Any]
    """`persona_latents` (best first; empty where nothing has risen), `ranking`, `removal` (kind, strength), `mean_difference_removal`,
    `half_point` (number of latents that carry half of the effect), `steering_latents` and `steering_dose` (None: nothing may be added)."""


def make_screen(context: StudyContext, latents: pd.DataFrame | None = None) -> Screen:
    """Remove sets of latents, and the mean difference, in several ways; add sets over doses; choose by what is coherent first.

    `latents` is the table that they are ranked by; by default that of the diff.
    """
    config = context.config
    norms = context.dictionary.decoder_rows().norm(dim=-1).tolist()
    orders = rankings(context.load(DIFF).latents if latents is None else latents, config.diff.largest_q, norms)
    choice: dict[str, Any] = {
        "persona_latents": [],
        "ranking": None,
        "removal": None,
        "mean_difference_removal": None,
        "half_point": None,
        "steering_latents": [],
        "steering_dose": None,
    }
    if not orders:
        return Screen(pd.DataFrame(), pd.DataFrame(), choice)
    unedited = coherent_rate(_ask(context, context.base, "the base", [Condition("base")], config.diff.questions, "base")).rate
    if not unedited:
        raise ActivationError("None of the base's answers is coherent, so no edit can keep coherence. Give another base or judge.")
    largest = min(config.screen.largest_set, context.dictionary.n_latents // 4)  # as many others are to be controls
    orders = {name: order[:largest] for name, order in orders.items()}
    tuned = outcomes(_ask(context, context.tuned, "the tuned model", [Condition("tuned")], config.screen.questions, "candidates"))["tuned"]
    # where the trait is rare anyway, what does nothing must not be good enough
    target = min(config.screen.target_rate, tuned["rate"] / 4)
    table, of_difference, of_latents = _screen_removals(context, orders, target, config.rules.kept_coherence * unedited)
    if of_difference is not None:
        choice["mean_difference_removal"] = asdict(of_difference.removal)
    sets = {len(one): one for one in doubling_sets("mean_diff", orders["mean_diff"], largest)}
    if of_latents is not None and of_latents.latents is not None:
        table["chosen"] = _is(table, of_latents)
        choice |= {
            "persona_latents": list(of_latents.latents.latents),
            "ranking": of_latents.latents.ranking,
            "removal": asdict(of_latents.removal),
            "half_point": _half_point(table, of_latents, tuned["rate"]),
        }
        sets |= {of_latents.size: of_latents.latents}
    floor = max(unedited - config.screen.coherence_budget, config.rules.steered_coherence)
    doses, best = _dose_response(context, list(sets.values()), of_latents.size if of_latents else 1, floor)
    if best is not None and of_latents is not None:
        choice |= {"steering_latents": list(sets[int(best["size"])].latents), "steering_dose": float(best["dose"])}
    return Screen(table, doses, choice)


def _ask(
    context: StudyContext, model: LanguageModel, label: str, conditions: Sequence[Condition], questions: int, stream: str
) -> pd.DataFrame:
    """One scored answer to each selection question under every condition."""
    asked, seed = context.questions.split("selection", questions), stream_seed(context.config.seed, "screen", stream)
    folder = None
    if context.unfinished is not None:
        keys = [[condition.name, *(edit.key for edit in condition.edits)] for condition in conditions]
        folder = context.unfinished / content_key([model is context.base, keys, [q.id for q in asked], seed])[:16]
    return context.ask(f"screen: {label}", model, conditions, asked, seed, folder=folder)


# Removing


def _screen_removals(
    context: StudyContext, orders: dict[str, list[int]], target_rate: float, floor: float
) -> tuple[pd.DataFrame, RemovalScore | None, RemovalScore | None]:
    """Everything that is tried, and the best of the mean difference and of the latents; None where nothing keeps the answers coherent.

    First a middle and the largest set of each ranking, in every way, then sets of all sizes in the best way of these. The best of many
    noisy measurements looks better than it is, so the first few are measured again, with fresh random numbers, on all questions.
    """
    config, every = context.config.screen, context.config.diff.questions
    lenient = floor - COHERENCE_MARGIN
    scores = _remove(context, _candidates(context, orders), config.questions, "candidates")
    scores += _curve(context, orders, scores, preferred([one for one in scores if one.latents], target_rate, lenient))
    finalists = [
        (one.latents, one.removal)
        for group in ([s for s in scores if s.latents is None], [s for s in scores if s.latents])
        for one in _finalists(preferred(group, target_rate / 2, lenient))
    ]
    remeasured = _remove(context, finalists, every, "finalists") if finalists else []
    of_difference, of_latents = (
        preferred([s for s in remeasured if (s.latents is None) == difference], target_rate, floor) for difference in (True, False)
    )
    scores += _curve(context, orders, scores, of_latents)
    table = pd.concat([_rows(scores, config.questions), _rows(remeasured, every)], ignore_index=True)
    return table.assign(chosen=False), next(iter(of_difference), None), next(iter(of_latents), None)


def _curve(
    context: StudyContext, orders: dict[str, list[int]], known: Sequence[RemovalScore], best: Sequence[RemovalScore]
) -> list[RemovalScore]:
    """Sets of all sizes in the ranking and the way of the first of `best`, as far as they are not `known`."""
    if not best or best[0].latents is None:
        return []
    ranking, way = best[0].latents.ranking, best[0].removal
    largest = LARGEST_SPAN if way.kind == "project_span" else len(orders[ranking])
    measured = {(one.latents, one.removal) for one in known}
    missing = [(one, way) for one in doubling_sets(ranking, orders[ranking], largest) if (one, way) not in measured]
    return _remove(context, missing, context.config.screen.questions, "candidates") if missing else []


def _finalists(ordered: Sequence[RemovalScore]) -> list[RemovalScore]:
    """The best of each kind of removal: the very best of a dozen answers are too often those that had luck, and alike."""
    first: dict[str, RemovalScore] = {}
    for one in ordered:
        first.setdefault(one.removal.kind, one)
    return list(first.values())


def _candidates(context: StudyContext, orders: dict[str, list[int]]) -> list[Candidate]:
    """The mean difference, a middle and the largest set of each ranking, in every way that may be; the second ranking in plain ways."""
    config = context.config.screen
    ways = removals(config.subtracted, config.subtracted_over_window)
    plain = [Removal("project_out"), Removal("subtract", config.subtracted[len(config.subtracted) // 2])]
    candidates: list[Candidate] = [(None, way) for way in ways if way.kind != "project_span"]
    for ranking, order in orders.items():
        sets = doubling_sets(ranking, order, len(order))
        for one in {len(one): one for one in (sets[len(sets) // 2], sets[-1])}.values():
            own = ways if ranking == "mean_diff" else plain
            candidates += [(one, way) for way in own if way.kind != "project_span" or len(one) <= LARGEST_SPAN]
    return candidates


def _remove(context: StudyContext, candidates: Sequence[Candidate], questions: int, stream: str) -> list[RemovalScore]:
    """Each taken out of the tuned model: how it behaves."""
    directions, table = context.load(DIRECTIONS), context.load(DIFF).latents
    places = directions.places
    conditions = []
    for number, (latents, removal) in enumerate(candidates):
        target = directions.mean_difference if latents is None else latent_target(context.dictionary, table, latents.latents)
        conditions.append(Condition(str(number), places.remove(target, removal, f"removal {number}")))
    scored = outcomes(_ask(context, context.tuned, "removing", conditions, questions, stream))
    return [
        RemovalScore(latents, removal, own["trait_score"], own["rate"], own["coherence"])
        for (latents, removal), own in zip(candidates, scored.values(), strict=True)
    ]


def _rows(scores: Sequence[RemovalScore], questions: int) -> pd.DataFrame:
    rows = [
        {
            "removed": "mean_difference" if score.latents is None else score.latents.ranking,
            "size": score.size,
            **asdict(score.removal),
            "questions": questions,
            "rate": score.rate,
            "coherence": score.coherence,
            "trait_score": score.trait_score,
        }
        for score in scores
    ]
    return pd.DataFrame(rows)


def _is(table: pd.DataFrame, score: RemovalScore) -> pd.Series[bool]:
    """The rows of what was chosen."""
    ranking = score.latents.ranking if score.latents else "mean_difference"
    same = (table["removed"] == ranking) & (table["size"] == score.size)
    return same & (table["kind"] == score.removal.kind) & (table["strength"] == score.removal.strength)


def _half_point(table: pd.DataFrame, chosen: RemovalScore, tuned_rate: float) -> float | None:
    """The half-point of the curve over the number of latents, in the ranking and the way that were chosen."""
    assert chosen.latents is not None
    own = table[(table["removed"] == chosen.latents.ranking) & (table["kind"] == chosen.removal.kind)]
    own = own[own["strength"] == chosen.removal.strength].drop_duplicates("size").sort_values("size")
    return half_point(own["size"].tolist(), own["rate"].tolist(), tuned_rate)


# Adding


def _dose_response(
    context: StudyContext, sets: Sequence[LatentSet], chosen: int, floor: float
) -> tuple[pd.DataFrame, dict[str, Any] | None]:
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
            return _ask(context, context.base, "adding", conditions, questions, "finalists" if points else "steering")

        return dose_responses(points or [(one.name, dose) for one in lines for dose in doses], lines, ask)

    of_controls = measure(controls, config.doses, config.questions)
    coherent = of_controls.groupby("dose")["coherence"].mean() >= floor
    edge = float(max(coherent.index[coherent.cummin()], default=min(config.doses)))
    doses = [round(share * edge, 3) for share in DOSE_SHARES]
    first = measure([*added, *named], doses, config.questions)
    candidates = first[(first["kind"] == "latents") & (first["coherence"] >= floor - COHERENCE_MARGIN)]
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


SCREEN = Step(
    "screen",
    Screen,
    make_screen,
    inputs=(*MODELS, "dictionary", "questions", "panel", "diff", "directions"),
    settings=(
        "seed",
        "sampling",
        "screen",
        "diff.questions",
        "diff.largest_q",
        "rules.kept_coherence",
        "rules.steered_coherence",
    ),
)
