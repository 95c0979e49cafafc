"""Step `directions`: persona vector, mean difference, means and norms of residuals: what edits are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from interp.causality.removals import Places, Target
from interp.core.artifacts import Artifact
from interp.core.errors import ActivationError, ArtifactError
from interp.core.steps import Step
from interp.interventions.edits import Edit, add
from interp.models.activations import mean_residuals, response_residuals
from interp.studies.persona.answers import ANSWERS, MODELS
from interp.studies.persona.context import StudyContext

NAMED = ("persona_vector", "mean_difference")
RISE, ORDINARY = "rise ", "ordinary_answers"


@dataclass(frozen=True)
class Directions(Artifact):
    """What edits are made of."""

    directions: dict[str, torch.Tensor]
    """The named directions; by hook point of the window the base's means, and, after "rise ", the mean difference there; the mean residual
    of each of the base's own answers (`ordinary_answers`).

    At the dictionary's hook point: `persona_vector`, the mean residual of the pairs' answers that show the trait minus the others', read
    by the base; `mean_difference`, that of the tuned model over its own answers minus that of the base over its own.
    """
    norms: dict[str, Any]
    """The dictionary's hook point, and there the median norm of the base's residuals, as they are (`median_residual_norm`) and around
    their mean (`median_centred_norm`)."""

    @property
    def named(self) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """Persona vector and mean difference, by name."""
        return {name: self.directions[name] for name in NAMED}

    @property
    def base_means(self) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """Mean residual of the base over its own answers, at every hook point of the window: what projections hold on to."""
        means = {name: row for name, row in self.directions.items() if name not in (*NAMED, ORDINARY) and not name.startswith(RISE)}
        return dict(sorted(means.items(), key=lambda item: int(item[0].split(".")[1])))

    @property
    def mean_difference(self) -> Target:
        """The mean difference as something to take out, measured at each layer of the window."""
        difference = self.directions["mean_difference"]
        if lacking := [name for name in self.base_means if RISE + name not in self.directions]:
            raise ArtifactError(f"The run has no mean difference at {lacking[0]}: an earlier version made it. Make a new run.")
        rises = {name: self.directions[RISE + name] for name in self.base_means}
        return Target(difference[None], difference, rises)

    @property
    def places(self) -> Places:
        """Where things are taken out."""
        target = self.mean_difference
        growth = {name: float(rise.norm() / target.rise.norm()) for name, rise in target.by_layer.items()}
        return Places(self.norms["hook_point"], self.base_means, growth)

    @property
    def unit(self) -> float:
        """The unit of a dose: the median norm of the base's residuals around their mean, over its own answers, at the dictionary's hook
        point. In runs that did not measure it, that of the residuals themselves.
        """
        return float(self.norms.get("median_centred_norm", self.norms["median_residual_norm"]))

    def ordinary_differences(self, n: int, seed: int) -> Float[torch.Tensor, "n d_model"]:
        """Differences of the mean residuals of two of the base's answers each, one after the other in a random order: independent.

        Controls that lie where real activations vary: a direction uniform on the sphere spreads over dimensions in which they hardly do.
        Raises `ActivationError` where the base gave no more than `n` different answers.
        """
        answers = self.directions[ORDINARY].unique(dim=0)
        if len(answers) <= n:
            raise ActivationError(
                f"{n} independent differences of the base's answers are controls, and it gave {len(answers)} different ones. "
                "Ask more questions (diff.questions, diff.samples), or remove fewer latents."
            )
        order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
        return answers[order[:n]] - answers[order[1 : n + 1]]

    def steering(self, row: Float[torch.Tensor, " d_model"], dose: float, label: str) -> Edit:
        """Add `row` at the dictionary's hook point, over the response; `dose` in units of `unit`."""
        return add(row.cpu(), {self.norms["hook_point"]: self.unit}, dose, phase="response", label=label)


def make_directions(context: StudyContext) -> Directions:
    """Measure them on the pairs and on both models' answers to selection questions."""
    pairs, hook_point = context.pair_chats(context.config.diff.persona_pairs), context.hook_point
    answers, places = context.load(ANSWERS), sorted({*context.window, context.hook_point})
    of_base, of_tuned = answers.chats("base"), answers.chats("tuned")
    with context.progress("measuring directions", 2 * len(pairs[0]) + len(of_base) + len(of_tuned)) as advance:
        shown, not_shown = (mean_residuals(context.base, own, [hook_point], progress=advance)[hook_point] for own in pairs)
        means = mean_residuals(context.base, of_base, places, progress=advance)
        tuned = mean_residuals(context.tuned, of_tuned, places, progress=advance)
        residuals = response_residuals(context.base, of_base, hook_point)
    pooled = torch.cat(residuals)
    norms = {
        "hook_point": hook_point,
        "median_residual_norm": float(pooled.norm(dim=-1).median()),
        "median_centred_norm": float((pooled - means[hook_point]).norm(dim=-1).median()),
    }
    vectors = {"persona_vector": shown - not_shown, "mean_difference": tuned[hook_point] - means[hook_point]}
    rises = {RISE + name: tuned[name] - means[name] for name in context.window}
    ordinary = {ORDINARY: torch.stack([own.mean(0) for own in residuals])}
    return Directions(vectors | {name: means[name] for name in context.window} | rises | ordinary, norms)


DIRECTIONS = Step(
    "directions",
    Directions,
    make_directions,
    inputs=(*MODELS, "answers", "pairs", "hook_point", "window"),
    settings=("diff.persona_pairs",),
)
