"""Step `screen`, on selection questions only: which candidates to remove, which to add, and at what dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from interp.causality.doses import Line, Point, best_dose, coherent_doses, dose_responses, largest_coherent_doses, outcomes
from interp.causality.latent_sets import LatentSet, SetScore, greedy_set, minimal_set
from interp.causality.sweep import Condition
from interp.core.artifacts import Artifact
from interp.core.fingerprints import content_key
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.diffing.candidates import candidates
from interp.evaluation.rates import coherent_rate
from interp.interventions.edits import random_directions
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import MODELS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS, Directions

REFERENCES = 2  # random directions in the dose-response; latents, where none could be removed
COHERENCE_MARGIN = 0.1  # a dozen answers measure coherence roughly, so what it lets pass is measured again


@dataclass(frozen=True)
class Screen(Artifact):
    """What the screen measured and chose."""

    screen: pd.DataFrame
    """A row for every candidate."""
    dose_response: pd.DataFrame
    """A row for every direction and dose."""
    sets: list[dict[str, Any]]
    """The path of chosen sets, the last one final."""
    choice: dict[str, Any]
    """persona_latents, steering_latent and steering_dose (None where nothing may be added)."""


def make_screen(context: StudyContext) -> Screen:
    """Remove and add every candidate; choose the set to remove, and of it the latent to add."""
    config, directions = context.config, context.load(DIRECTIONS)
    chosen = candidates(context.load(DIFF).latents, config.diff.candidates_per_metric, config.diff.largest_q)
    latents = [int(latent) for latent in chosen["latent"]]
    names = {"rank_mean_diff": "mean_diff_rank", "rank_cosine": "cosine_rank"}
    table = chosen[["latent", "metrics", *names]].rename(columns=names)
    choice: dict[str, Any] = {"persona_latents": [], "steering_latent": None, "steering_dose": None}
    if not latents:
        return Screen(table, pd.DataFrame(), [], choice)
    unedited = coherent_rate(_ask(context, context.base, "the base", [Condition("base")], config.diff.questions, "base")).rate
    removed, sets = _screen_ablation(context, directions, latents, config.rules.kept_coherence * unedited)
    persona = list(sets[-1].latents) if sets else []
    added = _screen_steering(context, directions, latents)
    by_score = pd.Series({latent: added[latent]["trait_score"] for latent in latents}).sort_values(ascending=False, kind="stable")
    strongest = [int(latent) for latent in by_score.index[:REFERENCES]]
    # both directions are claimed of the same latents: what is added is one of those that are removed
    floor = max(unedited - config.screen.coherence_budget, config.rules.steered_coherence)
    doses = _dose_response(context, directions, persona or strongest, floor)
    best = best_dose(doses[doses["kind"] == "latent"], floor) if persona else None
    for column in ("rate", "low", "high", "n", "coherence"):
        table[f"ablated_{column}"] = [removed[(latent,)][column] for latent in latents]
    table["steered_rate"] = [added[latent]["rate"] for latent in latents]
    table["steered_dose"] = config.screen.steering_dose
    table["steered_coherence"] = [added[latent]["coherence"] for latent in latents]
    table["chosen"] = table["latent"].isin(persona)
    choice["persona_latents"] = persona
    if best is not None:
        choice |= {"steering_latent": int(best["latent"]), "steering_dose": float(best["dose"])}
    return Screen(table, doses, [asdict(score) for score in sets], choice)


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


def _screen_ablation(
    context: StudyContext, directions: Directions, latents: list[int], floor: float
) -> tuple[dict[LatentSet, dict[str, Any]], list[SetScore]]:
    """Every candidate removed alone on a few questions; the best of them again on all selection questions, and sets grown from there.

    The best of many noisy measurements looks better than it is, so the shortlist is measured again, with fresh random numbers.
    """
    config, every = context.config.screen, context.config.diff.questions
    first = _remove(context, directions, [(latent,) for latent in latents], config.questions, "candidates")
    coherent = [latents for latents, own in first.items() if own["coherence"] >= floor - COHERENCE_MARGIN]
    shortlist = sorted(coherent, key=lambda latents: first[latents]["trait_score"])[: config.width]

    def measure(sets: list[LatentSet]) -> list[SetScore]:
        outcomes = _remove(context, directions, sets, every, "shortlist")
        return [SetScore(latents, own["trait_score"], own["rate"], own["coherence"]) for latents, own in outcomes.items()]

    singles = measure(shortlist) if shortlist else []
    path = greedy_set(singles, measure, config.target_rate, floor, config.max_set, config.width)
    path += minimal_set(path[-1], measure, config.target_rate, floor)[1:] if path else []
    return first, path


def _remove(
    context: StudyContext, directions: Directions, sets: Sequence[LatentSet], questions: int, stream: str
) -> dict[LatentSet, dict[str, Any]]:
    """Each set projected out of the tuned model: its outcome."""
    rows = {latents: context.dictionary.directions(list(latents)) for latents in sets}
    conditions = [Condition(str(latents), directions.ablation(own, f"ablate {latents}")) for latents, own in rows.items()]
    scored = _ask(context, context.tuned, "removing latents", conditions, questions, stream)
    return dict(zip(sets, outcomes(scored).values(), strict=True))


def _screen_steering(context: StudyContext, directions: Directions, latents: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Every candidate added to the base at one dose: its outcome."""
    config = context.config.screen
    rows = {latent: context.dictionary.directions([latent])[0] for latent in latents}
    conditions = [Condition(str(latent), directions.steering(row, config.steering_dose, f"add {latent}")) for latent, row in rows.items()]
    scored = _ask(context, context.base, "adding latents", conditions, config.questions, "steering")
    return dict(zip(latents, outcomes(scored).values(), strict=True))


def _dose_response(context: StudyContext, directions: Directions, latents: list[int], floor: float) -> pd.DataFrame:
    """The latents over the grid of doses, and on to their largest dose with coherence at least `floor`; references over the grid.

    References are the persona vector and random directions, asked half the questions.
    """
    config = context.config.screen

    def line(name: str, row: torch.Tensor, kind: str, latent: int | None = None) -> Line:
        return Line(name, kind, lambda dose: directions.steering(row, dose, f"add {name}"), directions.median_norm, latent)

    lines = [line(f"latent {latent}", context.dictionary.directions([latent])[0], "latent", latent) for latent in latents]
    random = random_directions(REFERENCES, context.shape[0], stream_seed(context.config.seed, "screen", "random directions"))
    references = [line("persona vector", directions.named["persona_vector"], "persona_vector")]
    references += [line(f"random {i + 1}", row, "random") for i, row in enumerate(random)]

    def measure(own: Sequence[Line], points: Sequence[Point], questions: int) -> pd.DataFrame:
        def ask(conditions: list[Condition]) -> pd.DataFrame:
            return _ask(context, context.base, "doses", conditions, questions, "steering")

        return dose_responses(points, own, ask)

    every = context.config.diff.questions
    latent_doses = measure(lines, [(one.name, dose) for one in lines for dose in config.doses], every)
    coherent = {name: dose for name, dose in coherent_doses(latent_doses, 1 - floor).largest.items() if dose is not None}
    edges = {name: (dose, min(beyond)) for name, dose in coherent.items() if (beyond := [other for other in config.doses if other > dose])}
    low, high = ({name: edge[end] for name, edge in edges.items()} for end in (0, 1))
    budget, rounds = 1 - floor, config.bisections
    finer = largest_coherent_doses(lambda points: measure(lines, points, every), list(edges), low, high, budget, rounds, latent_doses)
    reference_doses = measure(references, [(one.name, dose) for one in references for dose in config.doses], config.questions)
    tables = [latent_doses, *([finer.responses] if edges else []), reference_doses]
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["direction", "dose"])
    places = {one.name: place for place, one in enumerate([*lines, *references])}
    return table.sort_values(["direction", "dose"], key=lambda c: c.map(places) if c.name == "direction" else c, ignore_index=True)


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
        "diff.candidates_per_metric",
        "diff.largest_q",
        "rules.kept_coherence",
        "rules.steered_coherence",
    ),
)
