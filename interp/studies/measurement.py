"""The measurement, on held-out questions that played no part in any choice: treatments, controls, verdict, and what the removal costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from interp.causality.controls import equally_active, relative_activity
from interp.causality.doses import response
from interp.causality.effects import as_json
from interp.causality.evidence import CONTROLS, Claim, Trial, gather_evidence
from interp.causality.side_effects import side_effects
from interp.causality.verdict import Verdict, decide, finding
from interp.core.errors import EditWarning
from interp.core.files import write_json
from interp.core.formatting import plain
from interp.core.streams import stream_seed
from interp.interventions.edits import Edit
from interp.interventions.saved import save_edit
from interp.models.language_model import LanguageModel
from interp.studies.inputs import Workbench
from interp.studies.preparation import spread
from interp.studies.screening import RULES, ablation, read_choice, steering
from interp.studies.suspicion import Directions, read_directions
from sae_training.corpus import read_corpus

TITLES = {
    "base": ("Base", "the base model, unedited"),
    "tuned": ("Tuned", "the tuned model, unedited"),
    "ablated": ("Tuned, persona latents removed", "persona latents projected out of the tuned model"),
    "random_ablation": ("Tuned, random directions removed", "as many random directions projected out, all draws"),
    "equally_active_ablation": ("Tuned, equally active latents removed", "as many latents nearest in activity projected out, all draws"),
    "persona_vector_ablation": ("Tuned, persona vector removed", "the authored persona vector projected out, for reference"),
    "mean_difference_ablation": ("Tuned, mean difference removed", "the mean tuned minus base residual projected out, for reference"),
    "base_ablated": ("Base, persona latents removed", "the same projection on the base"),
    "steered": ("Base, latent added", "the best latent added to the base over the response"),
    "random_steering": ("Base, random directions added", "random directions of the same norm added, all draws"),
    "equally_active_steering": ("Base, equally active latents added", "latents nearest in activity added with the same norm, all draws"),
    "persona_vector_steering": ("Base, persona vector added", "the authored persona vector with the same norm, for reference"),
    "mean_difference_steering": ("Base, mean difference added", "the mean tuned minus base residual with the same norm, for reference"),
}
NEUTRAL_CHATS = 24
ALIKE = (0.5, 2.0)
"""Controls of equal activity have between these multiples of what they are compared with, or it is said that they do not."""


def make_verdict(bench: Workbench, diff: Path, directions_folder: Path, screen: Path, folder: Path) -> None:
    """Write answers.parquet, conditions.parquet, side_effects.parquet, verdict.json and the edits themselves."""
    directions, choice = read_directions(directions_folder), read_choice(screen)
    persona: list[int] = choice["persona_latents"]
    trial, claim = make_claim(bench, directions, choice, pd.read_parquet(diff / "latents.parquet"))
    answers = gather_evidence(trial, claim, bench.config.verdict)
    verdict = decide(answers, bench.config.seed, RULES)
    answers.to_parquet(folder / "answers.parquet")
    condition_table(answers).to_parquet(folder / "conditions.parquet")
    edits: dict[str, Edit] = {}
    if claim is not None:
        edits["ablated"] = trial.remove(claim.removed, f"latents {persona} removed")
        if claim.added is not None and trial.add is not None:
            edits["steered"] = trial.add(claim.added, f"latent {choice['steering_latent']} added")
    for name, edit in edits.items():
        save_edit(edit, folder, name)
    _side_effects(bench, edits).to_parquet(folder / "side_effects.parquet")
    for name, ratio in {} if claim is None else claim.activity.items():
        if not ALIKE[0] <= ratio <= ALIKE[1]:
            warnings.warn(
                "The claimed latents never fire on either model's answers, so no control can be as active as they."
                if math.isnan(ratio)
                else f"The latents {name} as controls of equal activity have {ratio:.2g} times that of the claimed: there are none nearer. "
                "What they show is what other latents do, not what equally active ones would.",
                EditWarning,
                stacklevel=2,
            )
    found = verdict_json(verdict, persona, choice["steering_latent"], bench)
    write_json(
        folder / "verdict.json", found | {"control_activity": {} if claim is None else {k: plain(v) for k, v in claim.activity.items()}}
    )


def make_claim(
    bench: Workbench, directions: Directions, choice: dict[str, Any], table: pd.DataFrame, tuned: LanguageModel | None = None
) -> tuple[Trial, Claim | None]:
    """The chosen latents as a claim, and what it is tried on: the study's tuned model, or another one."""
    config, dictionary = bench.config.verdict, bench.dictionary
    persona, latent, dose = choice["persona_latents"], choice["steering_latent"], choice["steering_dose"]
    trial = Trial(
        base=bench.base,
        tuned=bench.tuned if tuned is None else tuned,
        questions=bench.questions.split("held_out", config.questions),
        grade=bench.grader.grade,
        sampling=bench.config.sampling,
        seed=stream_seed(bench.config.seed, "verdict"),
        remove=lambda rows, label: ablation(bench, directions, rows, label),
        add=None if latent is None else lambda row, label: steering(bench, directions, row, dose, label),
        progress=bench.progress,
        unfinished=bench.unfinished,
    )
    if not persona:
        return trial, None
    added = [] if latent is None else [latent]
    removals = equally_active(table, persona, config.active_draws, stream_seed(trial.seed, "equally_active_ablation"), excluded=added)
    additions = equally_active(table, added, config.active_draws, stream_seed(trial.seed, "equally_active_steering"), excluded=persona)
    claim = Claim(
        removed=dictionary.directions(persona),
        added=None if latent is None else dictionary.directions([latent])[0],
        alike=[dictionary.directions(draw) for draw in removals],
        alike_added=[dictionary.directions(draw)[0] for draw in additions],
        activity={
            name: relative_activity(table, latents, draws)
            for name, latents, draws in (("removed", persona, removals), ("added", added, additions))
            if draws
        },
        references={"persona_vector": directions.persona_vector, "mean_difference": directions.mean_difference},
    )
    return trial, claim


def condition_table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for every condition, and one for every draw of a control, named CONTROL_DRAW."""
    rows = []
    for name, own in answers.groupby("condition", sort=False):
        rows.append(_condition_row(str(name), own))
        if name in CONTROLS:
            rows += [_condition_row(str(name), own[own["draw"] == draw], draw) for draw in sorted(set(own["draw"]))]
    return pd.DataFrame(rows)


def _condition_row(kind: str, graded: pd.DataFrame, draw: int | None = None) -> dict[str, Any]:
    title, description = TITLES[kind]
    on_base = kind in ("base", "base_ablated", "steered") or kind.endswith("_steering")
    return {
        "condition": kind if draw is None else f"{kind}_{draw}",
        "title": title if draw is None else f"{title}, draw {draw}",
        "description": description,
        "edited_model": "base" if on_base else "tuned",
        "edit": "none" if kind in ("base", "tuned") else "add" if kind == "steered" or kind.endswith("_steering") else "project_out",
        **response(graded),
    }


def _side_effects(bench: Workbench, edits: dict[str, Edit]) -> pd.DataFrame:
    """What the edits cost on ordinary chats."""
    if not edits:
        return pd.DataFrame()
    chats = spread(read_corpus(), NEUTRAL_CHATS)
    asked = [("base_ablated", bench.base, "ablated"), ("ablated", bench.tuned, "ablated"), ("steered", bench.base, "steered")]
    rows = []
    with bench.progress("side effects", len(chats) * len(asked)) as advance:
        for name, model, edit in asked:
            if edit in edits:
                rows.append(
                    {"condition": name, "title": TITLES[name][0], **asdict(side_effects(model, [edits[edit]], chats, progress=advance))}
                )
    return pd.DataFrame(rows)


def verdict_json(verdict: Verdict, persona: Sequence[int], steered: int | None, bench: Workbench) -> dict[str, Any]:
    """The verdict for result files: word, sentence, checks, effects, ranks."""
    layers = f"layers {bench.window[0].split('.')[1]}–{bench.window[-1].split('.')[1]}"
    return {
        "verdict": verdict.word,
        "finding": finding(verdict.word, list(persona), steered, bench.hook_point, layers, verdict.outcomes),
        "checks": [{"name": c.name, "statement": c.statement, "holds": bool(c.holds)} for c in verdict.checks],
        "effects": {name: as_json(effect) for name, effect in verdict.effects.items()},
        "ranks": {name: asdict(rank) for name, rank in verdict.ranks.items()},
    }
