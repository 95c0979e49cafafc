"""What a claim of cause is tested on: the latents removed and added, and everything else that might do the same.

Every condition is sampled on held-out questions, a different edit in every row of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.config import EvidenceConfig
from interp.causality.controls import parts_of
from interp.causality.sweep import Condition, sweep
from interp.core.streams import stream_seed
from interp.evaluation.questions import Question
from interp.interventions.edits import Edit, random_directions
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig

Directions = Float[torch.Tensor, "n d_model"]
CONTROLS = ("random_ablation", "equally_active_ablation", "random_steering", "equally_active_steering")
"""Conditions that are pooled over draws."""


@dataclass(frozen=True)
class Trial:
    """Two models, the questions, the judge, and how a direction is removed or added."""

    base: LanguageModel
    tuned: LanguageModel
    questions: Sequence[Question]
    grade: Callable[[pd.DataFrame], pd.DataFrame]
    """Answers to the same table with the columns p_hostile, hostile, coherent."""
    sampling: SamplingConfig
    seed: int
    remove: Callable[[Directions, str], Edit]
    """Directions and a label to the edit that takes them out."""
    add: Callable[[Float[torch.Tensor, " d_model"], str], Edit] | None
    """A direction and a label to the edit that adds it, at the dose of the claim; None when nothing is added."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    unfinished: Path | None = None
    """Where finished batches are kept until all are, so that a killed measurement goes on in the middle."""


@dataclass(frozen=True)
class Claim:
    """These directions carry the behaviour: without them it goes, and with `added` it comes."""

    removed: Directions
    """At least one; the rows need not be orthogonal."""
    added: Float[torch.Tensor, " d_model"] | None
    alike: Sequence[Directions]
    """Draws of as many decoder rows of equally active latents, to be removed."""
    alike_added: Sequence[Float[torch.Tensor, " d_model"]] = ()
    """Draws of one such row, to be added."""
    activity: Mapping[str, float] = field(default_factory=dict)
    """How active the draws are, over what they stand beside: by `removed`, `added`; 1 is alike."""
    references: Mapping[str, Float[torch.Tensor, " d_model"]] = field(default_factory=dict)
    """Other directions removed and added beside, by name: persona vector, mean difference."""


def gather_evidence(trial: Trial, claim: Claim | None, config: EvidenceConfig) -> pd.DataFrame:
    """Graded answers of both models under every condition; without a claim only as they are.

    Columns of the sweep and of `trial.grade`, and `draw`: the number of a control's draw, 0 elsewhere. A control's rows carry its
    name as condition.
    """
    tuned, base = [Condition("tuned", samples=config.samples)], [Condition("base", samples=config.samples)]
    if claim is not None:
        tuned += _removals(trial, claim, config)
        base += [Condition("base_ablated", trial.remove(claim.removed, "removed"))]
        base += _additions(trial, claim, config)
    return pd.concat([ask(trial, trial.base, base), ask(trial, trial.tuned, tuned)], ignore_index=True)


def ask(trial: Trial, model: LanguageModel, conditions: Sequence[Condition]) -> pd.DataFrame:
    """Sample under all conditions and grade; a draw's condition becomes its control's, with the draw's number beside it."""
    name = "base" if model is trial.base else "tuned"
    rows = sum((condition.samples or 1) * len(condition.asked or trial.questions) for condition in conditions)
    with trial.progress(f"verdict: {name} model", rows) as advance:
        folder = None if trial.unfinished is None else trial.unfinished / name
        answers = sweep(model, conditions, trial.questions, 1, trial.sampling, stream_seed(trial.seed, "answers"), advance, folder)
    graded = trial.grade(answers)
    parts = graded["condition"].str.extract(rf"^({'|'.join(CONTROLS)})_(\d+)$")
    graded["draw"] = pd.to_numeric(parts[1]).fillna(0).astype(int)
    graded["condition"] = parts[0].fillna(graded["condition"])
    return graded


def _removals(trial: Trial, claim: Claim, config: EvidenceConfig) -> list[Condition]:
    n, width = claim.removed.shape
    random = [random_directions(n, width, stream_seed(trial.seed, "random_ablation", draw)) for draw in range(config.random_draws)]
    return [
        Condition("ablated", trial.remove(claim.removed, "removed"), samples=config.samples),
        *_draws(trial, config, "random_ablation", random, trial.remove, config.full_draws),
        *_draws(trial, config, "equally_active_ablation", claim.alike, trial.remove),
        *(Condition(f"{name}_ablation", trial.remove(row[None], name)) for name, row in claim.references.items()),
    ]


def _additions(trial: Trial, claim: Claim, config: EvidenceConfig) -> list[Condition]:
    if claim.added is None or trial.add is None:
        return []
    random = [
        random_directions(1, len(claim.added), stream_seed(trial.seed, "random_steering", draw))[0] for draw in range(config.random_draws)
    ]
    return [
        Condition("steered", trial.add(claim.added, "added"), samples=config.samples),
        *_draws(trial, config, "random_steering", random, trial.add, config.full_draws),
        *_draws(trial, config, "equally_active_steering", claim.alike_added, trial.add),
        *(Condition(f"{name}_steering", trial.add(row, name)) for name, row in claim.references.items()),
    ]


def _draws(
    trial: Trial,
    config: EvidenceConfig,
    name: str,
    directions: Sequence[torch.Tensor],
    edit: Callable[[torch.Tensor, str], Edit],
    full_draws: int = 0,
) -> list[Condition]:
    asked = parts_of([question.id for question in trial.questions], len(directions), full_draws, config.parts)
    return [
        Condition(f"{name}_{draw}", edit(direction, f"{name}, draw {draw}"), asked=questions)
        for draw, (direction, questions) in enumerate(zip(directions, asked, strict=True), 1)
    ]
