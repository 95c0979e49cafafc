"""Step `organism`: the base fine-tuned on a recipe, where no tuned model is given."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from interp.core.artifacts import Artifact, in_place
from interp.core.steps import Step
from interp.organisms.recipe import read_recipe
from interp.organisms.training import train_adapter
from interp.studies.persona.context import StudyContext


@dataclass(frozen=True)
class Organism(Artifact):
    """A narrow fine-tune."""

    losses: pd.DataFrame
    """Loss by step."""
    adapter: Path = in_place("adapter")
    """LoRA adapter in peft's format; `checkpoints` beside it."""


def make_organism(context: StudyContext) -> Organism:
    """Fine-tune the base on the recipe."""
    config, seed = context.config.organism, context.config.seed
    chats = read_recipe(context.recipe).chats(config.phrasings_per_topic, seed, config.trait_fraction)
    model = context.open_base_for_training()
    steps = -(-int(len(chats) * config.epochs) // config.batch_size)
    with context.progress("fine-tuning", steps) as advance:
        losses = train_adapter(model, chats, config, seed, context.folder, lambda s, n, loss: advance(1, f"loss {loss:.2f}"))
    del model
    gc.collect()  # peft's layers refer to each other; two models are opened next
    return Organism(pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}))


ORGANISM = Step("organism", Organism, make_organism, inputs=("base", "recipe", "device"), settings=("seed", "organism"))
