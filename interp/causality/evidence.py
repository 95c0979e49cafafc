"""What a claim of cause is tested on: the latents removed and added, and everything else that might do the same.

Every condition is sampled on held-out questions, a different edit in every row of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.conditions import RANDOM, Arm, Control, with_conditions
from interp.causality.config import EvidenceConfig
from interp.causality.controls import parts_of
from interp.causality.sweep import sweep
from interp.core.streams import stream_seed
from interp.evaluation.questions import Question
from interp.interventions.edits import Edit, random_directions
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig

Directions = Float[torch.Tensor, "n d_model"]


@dataclass(frozen=True)
class Trial:
    """Two models, the questions, the judge, and how a direction is removed or added."""

    base: LanguageModel
    tuned: LanguageModel
    questions: Sequence[Question]
    score: Callable[[pd.DataFrame], pd.DataFrame]
    """Answers to the same table with the columns trait_score, shows_trait, coherent."""
    sampling: SamplingConfig
    seed: int
    remove: Callable[[Directions, str], Edit]
    """Directions and a label to the edit that takes them out."""
    add: Callable[[Float[torch.Tensor, " d_model"], str], Edit] | None
    """A direction and a label to the edit that adds it, at the dose of the claim; None when nothing is added."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    unfinished: Path | None = None
    """Where finished batches are kept until all are, so that a killed measurement resumes in the middle."""


@dataclass(frozen=True)
class Claim:
    """These directions carry the behaviour: without them it goes, and with `added` it comes."""

    removed: Directions
    """At least one; the rows need not be orthogonal."""
    added: Float[torch.Tensor, " d_model"] | None
    controls: Sequence[Control] = ()
    """What is removed and added beside, and must not do the same; random directions are always among them."""
    activity: Mapping[str, float] = field(default_factory=dict)
    """How active the controls of equal activity are, over what they stand beside: by `removed`, `added`; 1 is alike."""


def gather_evidence(trial: Trial, claim: Claim | None, config: EvidenceConfig) -> pd.DataFrame:
    """Scored answers of both models under every condition; without a claim only as they are.

    Columns of the sweep and of `trial.score`, with `conditions.COLUMNS` for what the condition of a row is.
    """
    arms = [Arm("base", "base", "baseline", samples=config.samples), Arm("tuned", "tuned", "baseline", samples=config.samples)]
    if claim is not None:
        controls = [_random_control(trial, claim, config), *claim.controls]
        arms += [
            Arm("ablated", "tuned", "treatment", trial.remove(claim.removed, "removed"), "persona latents", samples=config.samples),
            Arm("base_ablated", "base", "reference", trial.remove(claim.removed, "removed"), "persona latents"),
            *(arm for control in controls for arm in _arms(trial, config, control, "ablation", control.removed, trial.remove)),
        ]
        if claim.added is not None and trial.add is not None:
            arms += [Arm("steered", "base", "treatment", trial.add(claim.added, "added"), "persona latent", samples=config.samples)]
            arms += [arm for control in controls for arm in _arms(trial, config, control, "steering", control.added, trial.add)]
    return pd.concat([ask(trial, model, [arm for arm in arms if arm.model == model]) for model in ("base", "tuned")], ignore_index=True)


def ask(trial: Trial, model: Literal["base", "tuned"], arms: Sequence[Arm]) -> pd.DataFrame:
    """Sample under all arms of one model and score."""
    rows = sum((arm.samples or 1) * len(arm.asked or trial.questions) for arm in arms)
    with trial.progress(f"verdict: {model} model", rows) as advance:
        folder = None if trial.unfinished is None else trial.unfinished / model
        seed, conditions = stream_seed(trial.seed, "answers"), [arm.sampled for arm in arms]
        answers = sweep(getattr(trial, model), conditions, trial.questions, 1, trial.sampling, seed, advance, folder)
    return trial.score(with_conditions(answers, arms))


def _random_control(trial: Trial, claim: Claim, config: EvidenceConfig) -> Control:
    """As many random directions as the claim removes, and one as it adds one."""
    n, width = claim.removed.shape

    def drawn(count: int, stream: str) -> list[torch.Tensor]:
        return [random_directions(count, width, stream_seed(trial.seed, stream, draw)) for draw in range(config.random_draws)]

    added = [rows[0] for rows in drawn(1, RANDOM[1])]
    return Control("random", "random directions", drawn(n, RANDOM[0]), added, config.full_draws)


def _arms(
    trial: Trial,
    config: EvidenceConfig,
    control: Control,
    kind: str,
    directions: Sequence[torch.Tensor],
    edit: Callable[[torch.Tensor, str], Edit],
) -> list[Arm]:
    """The arms of a control: one a draw."""
    name, model = f"{control.name}_{kind}", "tuned" if kind == "ablation" else "base"
    asked = parts_of([question.id for question in trial.questions], len(directions), control.full_draws, config.parts)
    return [
        Arm(name, model, control.role, edit(drawn, f"{name}, draw {draw}"), control.directions, draw, questions)  # type: ignore[arg-type]
        for draw, (drawn, questions) in enumerate(zip(directions, asked, strict=True), 0 if control.role == "reference" else 1)
    ]
