"""The causal screen, on selection questions only: which latents to remove, which to add, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.doses import Line, Point, best_dose, coherent_doses, dose_responses, largest_coherent_doses, response
from interp.causality.latent_sets import LatentSet, SetScore, greedy_set, minimal_set
from interp.causality.sweep import Condition, sweep
from interp.causality.verdict import Rules
from interp.core.files import read_json, write_json
from interp.core.fingerprints import content_key
from interp.core.streams import stream_seed
from interp.diffing.rankings import candidates
from interp.evaluation.grading import coherent_rate
from interp.interventions.edits import Edit, add, project_out, random_directions
from interp.models.language_model import LanguageModel
from interp.studies.inputs import Workbench
from interp.studies.suspicion import Directions, read_directions

RULES = Rules()
LINES = 2  # random directions in the dose-response; latents, where none could be removed
COHERENCE_MARGIN = 0.1  # a dozen answers measure coherence roughly, so what it lets pass is measured again


def graded_sweep(
    bench: Workbench, model: LanguageModel, label: str, conditions: Sequence[Condition], split: str, questions: int, samples: int, seed: int
) -> pd.DataFrame:
    """Sample under all conditions and grade."""
    asked = bench.questions.split(split, questions)  # type: ignore[arg-type]
    sampling, folder = bench.config.sampling, None
    if bench.unfinished is not None:
        keys = [[condition.name, *(edit.key for edit in condition.edits)] for condition in conditions]
        folder = (
            bench.unfinished / content_key([model is bench.base, keys, [q.id for q in asked], samples, sampling.model_dump(), seed])[:16]
        )
    with bench.progress(label, len(conditions) * len(asked) * samples) as advance:
        answers = sweep(model, conditions, asked, samples, sampling, seed, advance, folder)
    return bench.grader.grade(answers)


def ablation(bench: Workbench, directions: Directions, rows: Float[torch.Tensor, "n d_model"], label: str) -> Edit:
    """Project `rows` out over the window, around the base's means, at every token."""
    return project_out(rows.cpu(), directions.base_means, phase="all", label=label)


def steering(bench: Workbench, directions: Directions, row: Float[torch.Tensor, " d_model"], dose: float, label: str) -> Edit:
    """Add `row` at the dictionary's hook point, over the response."""
    return add(row.cpu(), {bench.hook_point: directions.median_norm}, dose, phase="response", label=label)


def make_screen(bench: Workbench, diff: Path, directions_folder: Path, folder: Path) -> None:
    """Write screen.parquet (one row a candidate), sets.json, dose_response.parquet and choice.json."""
    directions = read_directions(directions_folder)
    suspects = candidates(pd.read_parquet(diff / "latents.parquet"), bench.config.diff.candidates_per_order, bench.config.diff.largest_q)
    latents = [int(latent) for latent in suspects["latent"]]
    table = suspects[["latent", "orders", "rank_rise", "rank_cosine"]].rename(
        columns={"rank_rise": "rise_rank", "rank_cosine": "cosine_rank"}
    )
    sets: list[SetScore] = []
    persona: list[int] = []
    doses, best = pd.DataFrame(), None
    if latents:
        unedited = _coherence_of_base(bench)
        ablated, sets = _screen_ablation(bench, directions, latents, RULES.kept_coherence * unedited)
        persona = list(sets[-1].latents) if sets else []
        steered = _screen_steering(bench, directions, latents)
        strongest = steered.sort_values("p_hostile", ascending=False, kind="stable")["latent"].head(LINES)
        # both directions are claimed of the same latents: what is added is one of those that are removed
        floor = max(unedited - bench.config.screen.coherence_budget, RULES.steered_coherence)
        doses = _dose_response(bench, directions, persona or [int(latent) for latent in strongest], floor)
        best = best_dose(doses[doses["kind"] == "latent"], floor) if persona else None
        table = table.merge(ablated, on="latent").merge(
            steered.rename(columns={"rate": "steered_rate", "dose": "steered_dose", "coherence": "steered_coherence"})[
                ["latent", "steered_rate", "steered_dose", "steered_coherence"]
            ],
            on="latent",
        )
        table["chosen"] = table["latent"].isin(persona)
    table.to_parquet(folder / "screen.parquet")
    doses.to_parquet(folder / "dose_response.parquet")
    write_json(folder / "sets.json", [asdict(score) for score in sets])
    write_json(
        folder / "choice.json",
        {
            "persona_latents": persona,
            "steering_latent": int(best["latent"]) if best is not None else None,
            "steering_dose": float(best["dose"]) if best is not None else None,
        },
    )


def read_choice(folder: Path) -> dict[str, Any]:
    """The latents and the dose that the screen chose."""
    choice: dict[str, Any] = read_json(folder / "choice.json")
    return choice


def _coherence_of_base(bench: Workbench) -> float:
    """Share of coherent answers of the unedited base."""
    condition = [Condition("base")]
    base = graded_sweep(
        bench,
        bench.base,
        "screen: the base",
        condition,
        "selection",
        bench.config.diff.questions,
        1,
        stream_seed(bench.config.seed, "screen", "base"),
    )
    return coherent_rate(base).rate


def _screen_ablation(bench: Workbench, directions: Directions, latents: list[int], floor: float) -> tuple[pd.DataFrame, list[SetScore]]:
    """Every candidate removed alone on a few questions; the best of them again on all selection questions, and sets grown from there.

    The best of many noisy measurements looks better than it is, so the shortlist is measured anew, with fresh random numbers.
    """
    config, every = bench.config.screen, bench.config.diff.questions
    first = _remove(
        bench, directions, [(latent,) for latent in latents], config.questions, stream_seed(bench.config.seed, "screen", "candidates")
    )
    speaking = [(score, row) for score, row in first if score.coherence >= floor - COHERENCE_MARGIN]
    shortlist = sorted((score for score, _ in speaking), key=lambda score: score.hostility)[: config.width]

    def measure(sets: list[LatentSet]) -> list[SetScore]:
        return [score for score, _ in _remove(bench, directions, sets, every, stream_seed(bench.config.seed, "screen", "shortlist"))]

    singles = measure([score.latents for score in shortlist]) if shortlist else []
    path = greedy_set(singles, measure, config.target_rate, floor, config.max_set, config.width)
    path += minimal_set(path[-1], measure, config.target_rate, floor)[1:] if path else []
    columns = ("rate", "low", "high", "n", "coherence")
    table = pd.DataFrame([{"latent": score.latents[0]} | {f"ablated_{column}": row[column] for column in columns} for score, row in first])
    return table, path


def _remove(
    bench: Workbench, directions: Directions, sets: list[LatentSet], questions: int, seed: int
) -> list[tuple[SetScore, dict[str, Any]]]:
    """Each set projected out of the tuned model: its score, and its outcome as columns."""
    conditions = [
        Condition(str(latents), ablation(bench, directions, bench.dictionary.directions(list(latents)), f"ablate {latents}"))
        for latents in sets
    ]
    graded = graded_sweep(bench, bench.tuned, "screen: removing latents", conditions, "selection", questions, 1, seed)
    results = []
    for latents in sets:
        own = graded[graded["condition"] == str(latents)]
        row = response(own)
        results.append((SetScore(latents, float(own["p_hostile"].mean()), row["rate"], row["coherence"]), row))
    return results


def _screen_steering(bench: Workbench, directions: Directions, latents: list[int]) -> pd.DataFrame:
    """Every candidate added to the base at one dose."""
    config = bench.config.screen
    conditions = [
        Condition(str(latent), steering(bench, directions, bench.dictionary.directions([latent])[0], config.steering_dose, f"add {latent}"))
        for latent in latents
    ]
    graded = graded_sweep(
        bench,
        bench.base,
        "screen: adding latents",
        conditions,
        "selection",
        config.questions,
        1,
        stream_seed(bench.config.seed, "screen", "steering"),
    )
    return pd.DataFrame(
        [
            {"latent": latent, "dose": config.steering_dose, "p_hostile": float(own["p_hostile"].mean()), **response(own)}
            for latent in latents
            for own in [graded[graded["condition"] == str(latent)]]
        ]
    )


def _dose_response(bench: Workbench, directions: Directions, latents: list[int], floor: float) -> pd.DataFrame:
    """The latents over the grid of doses, and on to their largest dose with coherence at least `floor`; references over the grid.

    References are the persona vector and random directions, asked half the questions.
    """
    config = bench.config.screen

    def line(name: str, row: torch.Tensor, kind: str, latent: int | None = None) -> Line:
        return Line(name, kind, lambda dose: steering(bench, directions, row, dose, f"add {name}"), directions.median_norm, latent)

    found = [line(f"latent {latent}", bench.dictionary.directions([latent])[0], "latent", latent) for latent in latents]
    random = random_directions(LINES, bench.d_model, stream_seed(bench.config.seed, "screen", "random directions"))
    others = [line("persona vector", directions.persona_vector, "persona_vector")]
    others += [line(f"random {i + 1}", row, "random") for i, row in enumerate(random)]

    def measure(lines: Sequence[Line], points: Sequence[Point], questions: int) -> pd.DataFrame:
        def ask(conditions: list[Condition]) -> pd.DataFrame:
            return graded_sweep(
                bench,
                bench.base,
                "screen: doses",
                conditions,
                "selection",
                questions,
                1,
                stream_seed(bench.config.seed, "screen", "steering"),
            )

        return dose_responses(points, lines, ask)

    every = bench.config.diff.questions
    ours = measure(found, [(one.name, dose) for one in found for dose in config.doses], every)
    kept = {name: dose for name, dose in coherent_doses(ours, 1 - floor).largest.items() if dose is not None}
    edges = {name: (dose, min(beyond)) for name, dose in kept.items() if (beyond := [other for other in config.doses if other > dose])}
    low, high = ({name: edge[end] for name, edge in edges.items()} for end in (0, 1))
    finer = (
        ours.iloc[:0]
        if not edges
        else largest_coherent_doses(
            lambda points: measure(found, points, every), list(edges), low, high, 1 - floor, config.bisections, ours
        ).responses
    )
    theirs = measure(others, [(one.name, dose) for one in others for dose in config.doses], config.questions)
    together = pd.concat([ours, finer, theirs], ignore_index=True).drop_duplicates(["direction", "dose"])
    places = {one.name: place for place, one in enumerate([*found, *others])}
    return together.sort_values(["direction", "dose"], key=lambda c: c.map(places) if c.name == "direction" else c, ignore_index=True)
