"""Step `residuals`: what the dictionary is trained on, where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interp.core.artifacts import Artifact, in_place
from interp.core.steps import Step
from interp.models.activation_store import StoreWriter
from interp.models.activations import capture, content_tokens
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import MODELS, TEXTS, spread
from interp.studies.persona.context import StudyContext


@dataclass(frozen=True)
class Residuals(Artifact):
    """Residuals at the hook point on disk."""

    parts: dict[str, int]
    """Tokens of each kind of text."""
    store: Path = in_place(".")
    """Folder of the `ActivationStore`."""


def make_residuals(context: StudyContext) -> Residuals:
    """Residuals of both models: a dictionary of the base's everyday text alone does not contain the persona."""
    texts, pairs, hook_point = context.load(TEXTS), context.pairs, context.hook_point
    of_base, of_tuned = texts.chats("base"), texts.chats("tuned")
    origin = "authored" if context.trait.pairs else "sampled"
    sources: dict[str, tuple[LanguageModel, list[Chat]]] = {
        "corpus, read by the base": (context.base, spread(context.corpus, context.config.text.corpus_chats)),
        "base's answers, read by the base": (context.base, of_base),
        "base's answers, read by the tuned model": (context.tuned, of_base),
        "tuned model's answers, read by the base": (context.base, of_tuned),
        "tuned model's answers, read by the tuned model": (context.tuned, of_tuned),
        f"{origin} answers that show the trait, read by the base": (context.base, [Chat.ask(p.question, p.shows) for p in pairs]),
        f"{origin} answers that do not, read by the base": (context.base, [Chat.ask(p.question, p.not_shown) for p in pairs]),
    }
    tokens = dict.fromkeys(sources, 0)
    total = sum(len(chats) for _, chats in sources.values())
    with context.progress("reading text", total) as advance, StoreWriter(context.folder, [hook_point], context.shape[0]) as writer:
        for name, (model, chats) in sources.items():
            for captured in capture(model, chats, [hook_point]):
                rows = captured.residuals[hook_point][content_tokens(captured.batch)]
                tokens[name] += len(rows)
                writer.add({hook_point: rows[:, None]})
                advance(len(captured.rows))
    return Residuals(tokens)


RESIDUALS = Step(
    "residuals",
    Residuals,
    make_residuals,
    inputs=(*MODELS, "texts", "corpus", "pairs", "hook_point"),
    settings=("text.corpus_chats",),
)
