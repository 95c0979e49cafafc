"""Step `cards`: what each latent that was removed or added fires on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.explanation.cards import Source, latent_cards
from interp.studies.persona.answers import ANSWERS, MODELS, evenly_spaced
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.screen import SCREEN

CORPUS_CHATS = 60
MOST = 8
"""Of a large set the first latents get a card."""
STATISTICS = {"cosine_persona": "cosine_persona", "mean_diff": "mean_diff", "rate_base": "frequency_base", "rate_tuned": "frequency_tuned"}
"""Columns of the diff, and what a card calls them."""


@dataclass(frozen=True)
class Cards(Artifact):
    """A card for each latent."""

    cards: list[dict[str, Any]]


def make_cards(context: StudyContext) -> Cards:
    """Cards of the latents that the screen chose."""
    choice = context.load(SCREEN).choice
    latents = list(dict.fromkeys([*choice["persona_latents"][:MOST], *choice["steering_latents"][:MOST]]))
    if not latents:
        return Cards([])
    table = context.load(DIFF).latents.set_index("latent")
    statistics = {latent: {new: float(table.loc[latent, old]) for old, new in STATISTICS.items()} for latent in latents}
    answers = context.load(ANSWERS)
    sources = [
        Source("tuned model's answer", 1, answers.chats("tuned"), "tuned"),
        Source("base's answer", 0, answers.chats("base"), "base"),
        Source("corpus", 0, evenly_spaced(context.corpus, CORPUS_CHATS)),
    ]
    return Cards(latent_cards(context.dictionary, [context.base, context.tuned], latents, sources, statistics))


CARDS = Step("cards", Cards, make_cards, inputs=(*MODELS, "dictionary", "answers", "corpus", "diff", "screen"))
