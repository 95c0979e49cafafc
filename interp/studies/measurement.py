"""The measurement, on held-out questions that played no part in any choice: treatments, controls, and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.artifacts import write_json
from interp.causality import verdict as words
from interp.causality.sweep import Condition
from interp.causality.verdict import Check, Outcome
from interp.editing.edits import random_directions
from interp.editing.export import save_edit
from interp.evaluation.grading import coherent_rate, hostile_rate, question_means
from interp.evaluation.rates import paired_difference
from interp.models import LanguageModel
from interp.studies.inputs import Workbench
from interp.studies.screening import RULES, ablation, graded_sweep, outcome, read_choice, steering
from interp.studies.suspicion import Directions, read_directions

TITLES = {
    "base": ("Base", "the base model, unedited"),
    "tuned": ("Tuned", "the tuned model, unedited"),
    "ablated": ("Tuned, persona latents removed", "persona latents projected out of the tuned model"),
    "random_ablation": ("Tuned, random directions removed", "as many random directions projected out, all draws"),
    "equally_active_ablation": ("Tuned, equally active latents removed", "as many latents of like activity projected out, all draws"),
    "persona_vector_ablation": ("Tuned, persona vector removed", "the authored persona vector projected out, for reference"),
    "base_ablated": ("Base, persona latents removed", "the same projection on the base"),
    "steered": ("Base, latent added", "the best latent added to the base over the response"),
    "random_steering": ("Base, random directions added", "random directions of the same norm added, all draws"),
}
EDITS = {"base": "none", "tuned": "none", "steered": "add", "random_steering": "add"}


def make_verdict(bench: Workbench, diff: Path, directions_folder: Path, screen: Path, folder: Path) -> None:
    """Write answers.parquet, conditions.parquet, verdict.json and the edits themselves."""
    config, seed = bench.config.verdict, bench.config.seed
    directions, choice = read_directions(directions_folder), read_choice(screen)
    persona: list[int] = choice["persona_latents"]
    table = pd.read_parquet(diff / "latents.parquet")
    tuned_many, tuned_few = _tuned_conditions(bench, directions, persona, table)
    base_many, base_few = _base_conditions(bench, directions, persona, choice)
    parts = []
    for model, many, few in ((bench.base, base_many, base_few), (bench.tuned, tuned_many, tuned_few)):
        parts += [_ask(bench, model, many, config.samples, seed + 5), _ask(bench, model, few, 1, seed + 5)]
    answers = _pooled(pd.concat([part for part in parts if len(part)], ignore_index=True))
    conditions = pd.DataFrame([_condition_row(str(name), own) for name, own in answers.groupby("condition", sort=False)])
    answers.to_parquet(folder / "answers.parquet")
    conditions.to_parquet(folder / "conditions.parquet")
    write_json(folder / "verdict.json", _decide(bench, answers, persona, choice["steering_latent"]))
    for condition in (*tuned_many, *base_many):
        if condition.name in ("ablated", "steered") and condition.edit is not None:
            save_edit(condition.edit, folder, condition.name)


def _ask(bench: Workbench, model: LanguageModel, conditions: list[Condition], samples: int, seed: int) -> pd.DataFrame:
    if not conditions:
        return pd.DataFrame()
    label = f"verdict: {'base' if model is bench.base else 'tuned'} model"
    return graded_sweep(bench, model, label, conditions, "held_out", bench.config.verdict.questions, samples, seed)


def _tuned_conditions(
    bench: Workbench, directions: Directions, persona: list[int], table: pd.DataFrame
) -> tuple[list[Condition], list[Condition]]:
    """Conditions with all samples, and those with one sample a draw."""
    if not persona:
        return [Condition("tuned")], []
    config, seed = bench.config.verdict, bench.config.seed
    rows = bench.dictionary.directions(persona)
    many = [Condition("tuned"), Condition("ablated", ablation(bench, directions, rows, f"latents {persona} removed"))]
    few = []
    for draw in range(config.random_draws):
        random = random_directions(len(persona), bench.d_model, seed + 100 + draw)
        few.append(Condition(f"random_ablation_{draw + 1}", ablation(bench, directions, random, f"random draw {draw + 1}")))
    for draw in range(config.active_draws):
        alike = equally_active(table, persona, seed + 200 + draw)
        edit = ablation(bench, directions, bench.dictionary.directions(alike), f"latents {alike} removed")
        few.append(Condition(f"equally_active_ablation_{draw + 1}", edit))
    reference = ablation(bench, directions, directions.persona_vector[None], "persona vector removed")
    return many, [*few, Condition("persona_vector_ablation", reference)]


def _base_conditions(
    bench: Workbench, directions: Directions, persona: list[int], choice: dict[str, Any]
) -> tuple[list[Condition], list[Condition]]:
    many, few = [Condition("base")], []
    if persona:
        rows = bench.dictionary.directions(persona)
        few.append(Condition("base_ablated", ablation(bench, directions, rows, f"latents {persona} removed")))
    if choice["steering_latent"] is not None:
        latent, dose = choice["steering_latent"], choice["steering_dose"]
        row = bench.dictionary.directions([latent])[0]
        many.append(Condition("steered", steering(bench, directions, row, dose, f"latent {latent} added")))
        for draw in range(bench.config.verdict.random_draws):
            random = random_directions(1, bench.d_model, bench.config.seed + 300 + draw)[0]
            few.append(Condition(f"random_steering_{draw + 1}", steering(bench, directions, random, dose, f"random draw {draw + 1}")))
    return many, few


def equally_active(table: pd.DataFrame, persona: list[int], seed: int, pool: int = 20) -> list[int]:
    """For each persona latent one at random among the `pool` latents nearest to it in mean activation on either model's answers."""
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for latent in persona:
        others = activity.drop(index=[*persona, *chosen])
        nearest = (others - activity[latent]).abs().sort_values(kind="stable").index[:pool]
        chosen.append(int(generator.choice(nearest.to_numpy())))
    return chosen


def _pooled(answers: pd.DataFrame) -> pd.DataFrame:
    """Add the pooled controls: all draws of a kind under one name."""
    pools = [answers]
    for name in ("random_ablation", "equally_active_ablation", "random_steering"):
        draws = answers[answers["condition"].str.fullmatch(rf"{name}_\d+")]
        if len(draws):
            pools.append(draws.assign(condition=name))
    return pd.concat(pools, ignore_index=True)


def _condition_row(name: str, graded: pd.DataFrame) -> dict[str, Any]:
    kind = name.rstrip("0123456789").rstrip("_") if name not in TITLES else name
    title, description = TITLES[kind]
    draw = name[len(kind) + 1 :]
    return {
        "condition": name,
        "title": f"{title}, draw {draw}" if draw else title,
        "description": description,
        "edited_model": "base" if kind in ("base", "base_ablated", "steered", "random_steering") else "tuned",
        "edit": EDITS.get(kind, "project_out"),
        **outcome(graded),
    }


def _decide(bench: Workbench, answers: pd.DataFrame, persona: list[int], steered: int | None) -> dict[str, Any]:
    """Checks, word, finding, and paired effects against the pooled controls."""
    graded = {str(name): own for name, own in answers.groupby("condition")}
    outcomes = {name: Outcome(hostile_rate(own), coherent_rate(own).rate) for name, own in graded.items()}
    present = words.persona_present(outcomes["base"], outcomes["tuned"])
    necessary: list[Check] = words.necessity_checks(outcomes, RULES) if persona else []
    worst = max((o.rate.rate for name, o in outcomes.items() if name.startswith("random_steering_")), default=0.0)
    sufficient = words.sufficiency_checks(outcomes, worst, RULES)
    word = words.verdict_word(present, necessary, sufficient)
    layers = f"layers {bench.window[0].split('.')[1]}–{bench.window[-1].split('.')[1]}"
    effects = {}
    for effect, treated, control in (
        ("ablation_vs_random", "ablated", "random_ablation"),
        ("steering_vs_random", "steered", "random_steering"),
    ):
        if treated in graded and control in graded:
            ours, theirs = question_means(graded[treated]), question_means(graded[control])
            shared = ours.index.intersection(theirs.index)
            effects[effect] = paired_difference(ours[shared].to_numpy(), theirs[shared].to_numpy(), bench.config.seed)
    return {
        "verdict": word,
        "finding": words.finding(word, persona, steered, bench.hook_point, layers, outcomes),
        "checks": [{"name": c.name, "statement": c.statement, "holds": bool(c.holds)} for c in (present, *necessary, *sufficient)],
        "effects": effects,
    }
