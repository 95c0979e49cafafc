"""Step `benign`: how benign fine-tunes of the same base differ from it. What fine-tuning changes anyway is the fairest control there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.causality.removals import Target
from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.evaluation.sampling import sample_answers
from interp.models.activations import mean_residuals
from interp.studies.persona.answers import ANSWERS, as_chats
from interp.studies.persona.context import StudyContext


@dataclass(frozen=True)
class BenignDifferences(Artifact):
    """Mean differences between benign fine-tunes and the base."""

    differences: dict[str, torch.Tensor]
    """By hook point of the window, and the dictionary's, [n d_model]: a row a fine-tune, its mean residual over its own answers to
    selection questions minus that of the base over its own."""

    def targets(self, hook_point: str, window: Sequence[str]) -> list[Target]:
        """Each as something to take out, measured at each layer of the window."""
        return [
            Target(row[None], row, {name: self.differences[name][i] for name in window})
            for i, row in enumerate(self.differences[hook_point])
        ]


def make_benign(context: StudyContext) -> BenignDifferences:
    """Each benign fine-tune answers the selection questions once, and reads its answers."""
    config, places = context.config, sorted({*context.window, context.hook_point})
    questions, seed = context.questions.split("selection", config.diff.questions), stream_seed(config.seed, "answers")
    base = mean_residuals(context.base, context.load(ANSWERS).chats("base"), places)
    differences: dict[str, list[torch.Tensor]] = {name: [] for name in places}
    for source in config.benign:
        model = context.open_model(source)
        with context.progress(f"answers of {source}", len(questions)) as advance:
            answers = sample_answers(model, questions, 1, config.sampling, seed, progress=advance)
        means = mean_residuals(model, as_chats(answers), places)
        for name in places:
            differences[name].append(means[name] - base[name])
    return BenignDifferences({name: torch.stack(rows) for name, rows in differences.items()})


BENIGN = Step(
    "benign",
    BenignDifferences,
    make_benign,
    inputs=("base", "device", "dtype", "benign_models", "answers", "questions", "hook_point", "window"),
    settings=("seed", "sampling", "benign", "diff.questions"),
)
