"""Step `verdict`: from the evidence to a word, by the rules of the config, and one row for every condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interp.causality.doses import response
from interp.causality.effects import as_json
from interp.causality.evidence import CONTROLS
from interp.causality.verdict import decide, finding
from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.screen import SCREEN

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


@dataclass(frozen=True)
class VerdictRecord(Artifact):
    """The verdict, and what it rests on."""

    verdict: dict[str, Any]
    """verdict (the word), finding (the sentence), checks, effects, ranks."""
    conditions: pd.DataFrame
    """The columns of `condition_table`."""


def make_verdict(context: StudyContext) -> VerdictRecord:
    """The verdict on what the screen chose."""
    return verdict_on(context, context.load(EVIDENCE).answers, context.load(SCREEN).choice)


def verdict_on(context: StudyContext, answers: pd.DataFrame, choice: Mapping[str, Any]) -> VerdictRecord:
    """The verdict on the latents of `choice`, from the answers of `gather_evidence`."""
    verdict = decide(answers, context.config.seed, context.config.rules)
    layers = f"layers {context.window[0].split('.')[1]}–{context.window[-1].split('.')[1]}"
    latents, steered = list(choice["persona_latents"]), choice["steering_latent"]
    record = {
        "verdict": verdict.word,
        "finding": finding(verdict.word, latents, steered, context.hook_point, layers, verdict.outcomes),
        "checks": [asdict(check) for check in verdict.checks],
        "effects": {name: as_json(effect) for name, effect in verdict.effects.items()},
        "ranks": {name: asdict(rank) for name, rank in verdict.ranks.items()},
    }
    return VerdictRecord(record, condition_table(answers))


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


VERDICT = Step("verdict", VerdictRecord, make_verdict, inputs=("evidence", "screen", "hook_point", "window"), settings=("seed", "rules"))
