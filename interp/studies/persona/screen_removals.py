"""The removing half of the screen: sets of latents and the mean difference, taken out of the tuned model in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pandas as pd

from interp.causality.doses import outcomes
from interp.causality.latent_sets import LatentSet, RemovalScore, doubling_sets, half_point, preferred
from interp.causality.removals import Removal, removals
from interp.causality.side_effects import side_effects
from interp.causality.sweep import Condition
from interp.interventions.edits import Edit
from interp.studies.persona.answers import evenly_spaced
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.selection import ask_selection
from interp.studies.persona.targets import latent_target

LARGEST_SPAN = 16  # latents; to project many more out leaves little of a small model
SHOWING = 0.5
"""Answers that show the trait, expected for each question, as far as `MOST_SAMPLES` allow: a dozen answers of which one would show it
tell nothing apart."""
MOST_SAMPLES = 4
COST_CHATS = 8  # ordinary chats on which the finalists' side effects are measured

Candidate = tuple[LatentSet | None, Removal]


def screen_removals(
    context: StudyContext, orders: Mapping[str, Sequence[int]], rates: Mapping[str, float], floor: float
) -> tuple[pd.DataFrame, RemovalScore | None, RemovalScore | None]:
    """Everything that is tried, and the best of the mean difference and of the latents; None where nothing keeps coherence at `floor`.

    First the largest set of each ranking and a middle one, in several ways. The best of many noisy measurements looks better than it is, so
    the best of each way are measured again, with fresh random numbers, on all questions; what they cost on ordinary text decides among
    those that are good enough. Then sets of all sizes in the way of the best, of which the best smaller one is measured again.
    """
    config = context.config.screen
    # where the trait is rare anyway, what does nothing must not be good enough
    target = min(config.target_rate, rates["tuned"] / 4)
    samples = max(1, min(MOST_SAMPLES, round(SHOWING / rates["tuned"]))) if rates["tuned"] > rates["base"] else 1
    scores = _remove(context, _candidates(context, orders), samples)
    of_difference, of_latents = ([one for one in scores if (one.latents is None) == difference] for difference in (True, False))
    groups = ((of_difference, 2), (of_latents, 4))
    finalists = [one for group, most in groups for one in _best_of_ways(preferred(group, target / 2, floor))[:most]]
    remeasured = _remeasured(context, finalists, samples)
    if best := preferred([one for one in remeasured if one.latents], target, floor):
        curve = _curve(context, orders, scores, best[0], samples)
        scores += curve
        smaller = preferred([one for one in curve if one.size < best[0].size], target / 2, floor)
        remeasured += _remeasured(context, smaller[:1], samples)
    difference, latents = (preferred([one for one in remeasured if (one.latents is None) == own], target, floor) for own in (True, False))
    table = pd.concat([_rows(scores, config.questions), _rows(remeasured, context.config.diff.questions)], ignore_index=True)
    return table.assign(chosen=False), next(iter(difference), None), next(iter(latents), None)


def chosen_rows(table: pd.DataFrame, score: RemovalScore) -> pd.Series[bool]:
    """The rows of what was chosen."""
    ranking = score.latents.ranking if score.latents else "mean_difference"
    same = (table["removed"] == ranking) & (table["size"] == score.size)
    return same & (table["kind"] == score.removal.kind) & (table["strength"] == score.removal.strength)


def curve_half_point(table: pd.DataFrame, chosen: RemovalScore, tuned_rate: float) -> float | None:
    """The half-point of the curve over the number of latents, in the ranking and the way that were chosen."""
    assert chosen.latents is not None
    own = table[(table["removed"] == chosen.latents.ranking) & (table["kind"] == chosen.removal.kind)]
    own = own[own["strength"] == chosen.removal.strength].drop_duplicates("size").sort_values("size")
    return half_point(own["size"].tolist(), own["rate"].tolist(), tuned_rate)


def _candidates(context: StudyContext, orders: Mapping[str, Sequence[int]]) -> list[Candidate]:
    """The mean difference and the largest set of the first ranking in every way; a middle set in the strongest of each kind, since it
    holds less of the rise; the largest set of the second ranking in plain ways.
    """
    config = context.config.screen
    ways = removals(config.subtracted, config.subtracted_over_window)
    strongest = list({way.kind: way for way in sorted(ways, key=lambda way: way.strength)}.values())
    plain = [Removal("project_out"), Removal("subtract_window", config.subtracted_over_window[len(config.subtracted_over_window) // 2])]
    candidates: list[Candidate] = [(None, way) for way in ways if way.kind != "project_span"]
    for ranking, order in orders.items():
        first, (*smaller, largest) = ranking == "mean_diff", doubling_sets(ranking, order, len(order))
        tried = [(largest, ways if first else plain)]
        if first and smaller:
            tried.append((smaller[len(smaller) // 2], strongest))
        candidates += [(one, way) for one, own in tried for way in own if way.kind != "project_span" or len(one) <= LARGEST_SPAN]
    return candidates


def _curve(
    context: StudyContext, orders: Mapping[str, Sequence[int]], known: Sequence[RemovalScore], best: RemovalScore, samples: int
) -> list[RemovalScore]:
    """Sets of all sizes in the ranking and the way of `best`, as far as they are not `known`."""
    assert best.latents is not None
    ranking, way = best.latents.ranking, best.removal
    largest = LARGEST_SPAN if way.kind == "project_span" else len(orders[ranking])
    measured = {(one.latents, one.removal) for one in known}
    missing = [(one, way) for one in doubling_sets(ranking, orders[ranking], largest) if (one, way) not in measured]
    return _remove(context, missing, samples) if missing else []


def _best_of_ways(ordered: Sequence[RemovalScore]) -> list[RemovalScore]:
    """The best of each way of removing: the very best of a dozen answers are too often those that had luck, and alike."""
    first: dict[Removal, RemovalScore] = {}
    for one in ordered:
        first.setdefault(one.removal, one)
    return list(first.values())


def _remove(context: StudyContext, candidates: Sequence[Candidate], samples: int, final: bool = False) -> list[RemovalScore]:
    """Each taken out of the tuned model: how it behaves; of finalists on all selection questions, and what it costs."""
    edits = _edits(context, candidates)
    conditions = [Condition(str(number), edit, samples=samples) for number, edit in enumerate(edits)]
    questions = context.config.diff.questions if final else context.config.screen.questions
    answers = ask_selection(context, "removing", context.tuned, conditions, questions, "finalists" if final else "candidates")
    scores = [
        RemovalScore(latents, removal, own["trait_score"], own["rate"], own["coherence"])
        for (latents, removal), own in zip(candidates, outcomes(answers).values(), strict=True)
    ]
    if not final:
        return scores
    chats = evenly_spaced(context.corpus, COST_CHATS)
    with context.progress("screen: side effects", len(chats) * len(edits)) as advance:
        costs = [side_effects(context.tuned, [edit], chats, progress=advance).kl for edit in edits]
    return [replace(score, kl=kl) for score, kl in zip(scores, costs, strict=True)]


def _remeasured(context: StudyContext, scores: Sequence[RemovalScore], samples: int) -> list[RemovalScore]:
    return _remove(context, [(one.latents, one.removal) for one in scores], samples, final=True) if scores else []


def _edits(context: StudyContext, candidates: Sequence[Candidate]) -> list[Edit]:
    directions, table = context.load(DIRECTIONS), context.load(DIFF).latents
    difference, places = directions.mean_difference, directions.places
    targets = [difference if own is None else latent_target(context.dictionary, table, own.latents) for own, _ in candidates]
    return [
        places.remove(target, removal, f"removal {number}")
        for number, (target, (_, removal)) in enumerate(zip(targets, candidates, strict=True))
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
            "kl": score.kl,
        }
        for score in scores
    ]
    return pd.DataFrame(rows)
