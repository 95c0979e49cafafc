"""Step `directions`: persona vector, mean difference, means and norms of residuals: what edits are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.interventions.edits import Edit, add, project_out
from interp.models.activations import mean_residuals, median_residual_norm
from interp.studies.persona.answers import ANSWERS, MODELS
from interp.studies.persona.context import StudyContext

NAMED = ("persona_vector", "mean_difference")


@dataclass(frozen=True)
class Directions(Artifact):
    """What edits are made of."""

    directions: dict[str, torch.Tensor]
    """The named directions, and the base's means by hook point.

    At the dictionary's hook point: `persona_vector`, the mean residual of the pairs' answers that show the trait minus the others', read
    by the base; `mean_difference`, that of the tuned model over its own answers minus that of the base over its own.
    """
    norms: dict[str, Any]
    """The dictionary's hook point, and the median residual norm there."""

    @property
    def named(self) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """Persona vector and mean difference, by name."""
        return {name: self.directions[name] for name in NAMED}

    @property
    def base_means(self) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """Mean residual of the base over its own answers, at every hook point of the window: what projections hold on to."""
        means = {name: row for name, row in self.directions.items() if name not in NAMED}
        return dict(sorted(means.items(), key=lambda item: int(item[0].split(".")[1])))

    @property
    def median_norm(self) -> float:
        """Median residual norm of the base over its own answers at the dictionary's hook point: the unit of a dose."""
        return float(self.norms["median_residual_norm"])

    def ablation(self, rows: Float[torch.Tensor, "n d_model"], label: str) -> Edit:
        """Project `rows` out over the window, around the base's means, at every token."""
        return project_out(rows.cpu(), self.base_means, phase="all", label=label)

    def steering(self, row: Float[torch.Tensor, " d_model"], dose: float, label: str) -> Edit:
        """Add `row` at the dictionary's hook point, over the response; `dose` in median residual norms."""
        return add(row.cpu(), {self.norms["hook_point"]: self.median_norm}, dose, phase="response", label=label)


def make_directions(context: StudyContext) -> Directions:
    """Measure them on the pairs and on both models' answers to selection questions."""
    pairs, hook_point = context.pair_chats(context.config.diff.persona_pairs), context.hook_point
    answers = context.load(ANSWERS)
    of_base, of_tuned = answers.chats("base"), answers.chats("tuned")
    with context.progress("measuring directions", 2 * len(pairs[0]) + len(of_base) + len(of_tuned)) as advance:
        shown, not_shown = (mean_residuals(context.base, own, [hook_point], progress=advance)[hook_point] for own in pairs)
        means = mean_residuals(context.base, of_base, sorted({*context.window, hook_point}), progress=advance)
        tuned = mean_residuals(context.tuned, of_tuned, [hook_point], progress=advance)[hook_point]
        norm = median_residual_norm(context.base, of_base, [hook_point])[hook_point]
    vectors = {"persona_vector": shown - not_shown, "mean_difference": tuned - means[hook_point]}
    return Directions(vectors | {name: means[name] for name in context.window}, {"hook_point": hook_point, "median_residual_norm": norm})


DIRECTIONS = Step(
    "directions",
    Directions,
    make_directions,
    inputs=(*MODELS, "answers", "pairs", "hook_point", "window"),
    settings=("diff.persona_pairs",),
)
