"""What a claim of cause is tested on: the latents removed and added, and everything else that might do the same.

Every condition is sampled on held-out questions, a different edit in every row of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.causality.conditions import COLUMNS, RANDOM, Control, arm
from interp.causality.removals import Target
from interp.causality.sweep import Condition
from interp.causality.thresholds import EvidenceConfig
from interp.core.errors import EditError
from interp.core.streams import stream_seed
from interp.evaluation.questions import Question
from interp.interventions.edits import Edit

Directions = Float[torch.Tensor, "n d_model"]


@dataclass(frozen=True)
class Trial:
    """The questions, how models are asked, and how a direction is removed or added."""

    questions: Sequence[Question]
    ask: Callable[[str, Sequence[Condition], int], pd.DataFrame]
    """Model (`base` or `tuned`), conditions and seed to the answers to all questions: a sweep with trait_score, shows_trait, coherent."""
    seed: int
    remove: Callable[[Target, str], Edit]
    """What is to go and a label to the edit that takes it out, in the way of the claim."""
    add: Callable[[Float[torch.Tensor, " d_model"], str], Edit] | None
    """A direction and a label to the edit that adds it, at the dose of the claim; None when nothing is added."""
    differences: Callable[[int, int], Directions]
    """A number and a seed to so many differences of ordinary activations."""


@dataclass(frozen=True)
class Claim:
    """These directions carry the behaviour: without them it goes, and with `added` it comes."""

    removed: Target
    """What is taken out of the tuned model."""
    added: Float[torch.Tensor, " d_model"] | None
    controls: Sequence[Control] = ()
    """What is removed and added beside, and must not do the same; differences of ordinary answers are always among them."""
    n_directions: int | None = None
    """How many directions its removal uses, and a draw of ordinary differences must have; None: all of `removed`."""
    references: Sequence[Condition] = ()
    """Further edits of the tuned model that are shown beside."""
    of_latents: bool = True
    """Whether latents are claimed; False: there are none, and `removed` is only what the controls are as long as."""


def gather_evidence(trial: Trial, claim: Claim | None, config: EvidenceConfig) -> pd.DataFrame:
    """Scored answers of both models under every condition; without a claim only as they are.

    Columns of `trial.ask`, with `conditions.COLUMNS` for what the condition of a row is.
    """
    arms = [arm("base", "base", "baseline", samples=config.samples), arm("tuned", "tuned", "baseline", samples=config.samples)]
    if claim is not None:
        controls = [_random_control(trial, claim, config), *claim.controls]
        if claim.of_latents:
            edit = trial.remove(claim.removed, "removed")
            arms.append(arm("ablated", "tuned", "treatment", edit, "persona latents", samples=config.samples))
            arms.append(arm("base_ablated", "base", "reference", edit, "persona latents"))
        arms += [
            *(one for control in controls for one in _arms(trial, config, control, "ablation", control.removed, trial.remove)),
            *claim.references,
        ]
        if claim.added is not None and trial.add is not None:
            arms += [arm("steered", "base", "treatment", trial.add(claim.added, "added"), "persona latents", samples=config.samples)]
            arms += [one for control in controls for one in _arms(trial, config, control, "steering", control.added, trial.add)]
    seed = stream_seed(trial.seed, "answers")
    tables = [trial.ask(name, [one for one in arms if one.columns["model"] == name], seed) for name in ("base", "tuned")]
    answers = pd.concat(tables, ignore_index=True)
    return answers[[*COLUMNS, *answers.columns.difference(COLUMNS, sort=False)]]


def _random_control(trial: Trial, claim: Claim, config: EvidenceConfig) -> Control:
    """As many differences of ordinary activations as the claim's removal uses directions, and one as it adds one."""
    n, norm = claim.n_directions or len(claim.removed.directions), float(claim.removed.rise.norm())

    def drawn(count: int, stream: str) -> list[Directions]:
        return [trial.differences(count, stream_seed(trial.seed, stream, draw)) for draw in range(config.random_draws)]

    removed = [Target(rows, rows[0]).scaled(norm) for rows in drawn(n, RANDOM[0])]
    added = [rows[0] for rows in drawn(1, RANDOM[1])]
    return Control("random", "ordinary differences", removed, added, config.full_draws)


def _arms(
    trial: Trial,
    config: EvidenceConfig,
    control: Control,
    kind: str,
    directions: Sequence[Any],
    edit: Callable[[Any, str], Edit],
) -> list[Condition]:
    """The arms of a control: one a draw."""
    name, model = f"{control.name}_{kind}", "tuned" if kind == "ablation" else "base"
    asked = parts_of([question.id for question in trial.questions], len(directions), control.full_draws, config.parts)
    return [
        arm(name, model, control.role, edit(drawn, f"{name}, draw {draw}"), control.directions, draw, questions)  # type: ignore[arg-type]
        for draw, (drawn, questions) in enumerate(zip(directions, asked, strict=True), 0 if control.role == "reference" else 1)
    ]


def activation_matched(
    table: pd.DataFrame, latents: Sequence[int], draws: int, seed: int, excluded: Collection[int] = (), pool: int = 20
) -> list[list[int]]:
    """`draws` times as many other latents, each at random among those nearest to its own in mean activation on either model's answers.

    No draw has a latent twice, nor one of `latents` or `excluded`. While the dictionary has enough of them, no two draws share any, so
    that they are independent; each latent has the `pool` nearest that are left to come from. `table` has the columns latent, mean_base,
    mean_tuned. Raises `EditError` when the dictionary has too few latents for one draw.
    """
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1).sort_index()
    others = activity.drop(index=list({*latents, *excluded}))
    if len(others) < len(latents):
        raise EditError(
            f"The dictionary has {len(others)} other latents, and sets of {len(latents)} are to be controls. "
            "Use a larger dictionary, or fewer latents."
        )
    generator, values = np.random.default_rng(seed), others.to_numpy(float)
    independent, left, result = len(others) >= draws * len(latents), np.ones(len(others), bool), []
    for _ in range(draws):
        left = left if independent else np.ones_like(left)
        draw: list[int] = []
        for latent in latents:
            distances = np.where(left, np.abs(values - activity[latent]), np.inf)
            nearest = np.argsort(distances, kind="stable")[: min(pool, int(left.sum()))]
            draw.append(int(generator.choice(nearest)))
            left[draw[-1]] = False
        result.append([int(others.index[place]) for place in draw])
    return result


def relative_activity(table: pd.DataFrame, latents: Sequence[int], draws: Sequence[Sequence[int]]) -> float:
    """How active the draws of `activation_matched` are: the median of their summed mean activation over that of `latents`.

    A latent that is far more active than all others has no equals; then this is far below 1. NaN for latents that never fire.
    """
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    own = float(activity[list(latents)].sum())
    return float(np.median([activity[list(draw)].sum() for draw in draws])) / own if own else float("nan")


def parts_of(questions: Sequence[str], draws: int, full_draws: int, parts: int) -> list[tuple[str, ...]]:
    """The questions that each draw of a control is asked: the first `full_draws` all of them, the others one of `parts` in turn.

    Many directions, each asked a little, tell more of what any direction does than a few asked everything.
    """
    parts = min(parts, len(questions))
    everything = tuple(questions)
    return [everything if draw < full_draws else tuple(questions[(draw - full_draws) % parts :: parts]) for draw in range(draws)]
