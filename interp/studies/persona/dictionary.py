"""Steps `residuals`, what the dictionary is trained on, and `dictionary`: the one trained on them, or the user's own, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from interp.core.artifacts import Artifact, in_place
from interp.core.steps import Step
from interp.dictionaries.load import load_dictionary
from interp.models.activation_store import ActivationStore, StoreWriter
from interp.models.activations import capture, content_tokens
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import MODELS, TEXTS, evenly_spaced
from interp.studies.persona.context import StudyContext
from sae_training.plan import steps_of
from sae_training.trainer import train


@dataclass(frozen=True)
class Residuals(Artifact):
    """Residuals at the hook point on disk."""

    parts: dict[str, int]
    """Tokens of each kind of text."""
    store: Path = in_place(".")
    """Folder of the `ActivationStore`."""


def make_residuals(context: StudyContext) -> Residuals:
    """Residuals of both models: a dictionary of the base's everyday text alone does not contain the persona."""
    texts, hook_point, (shown, not_shown) = context.load(TEXTS), context.hook_point, context.pair_chats()
    of_base, of_tuned = texts.chats("base"), texts.chats("tuned")
    origin = "authored" if context.trait.pairs else "sampled"
    sources: dict[str, tuple[LanguageModel, list[Chat]]] = {
        "corpus, read by the base": (context.base, evenly_spaced(context.corpus, context.config.text.corpus_chats)),
        "base's answers, read by the base": (context.base, of_base),
        "base's answers, read by the tuned model": (context.tuned, of_base),
        "tuned model's answers, read by the base": (context.base, of_tuned),
        "tuned model's answers, read by the tuned model": (context.tuned, of_tuned),
        f"{origin} answers that show the trait, read by the base": (context.base, shown),
        f"{origin} answers that do not, read by the base": (context.base, not_shown),
    }
    tokens = dict.fromkeys(sources, 0)
    total = sum(len(chats) for _, chats in sources.values())
    with context.progress("reading text", total) as advance, StoreWriter(context.folder, [hook_point], context.shape[0]) as writer:
        for name, (model, chats) in sources.items():
            for captured in capture(model, chats, [hook_point]):
                rows = captured.residuals[hook_point][captured.select(content_tokens)]
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


@dataclass(frozen=True)
class DictionaryMetrics(Artifact):
    """How well the dictionary explains residuals. A trained one lies in `sae` beside it, in sae-lens' format."""

    metrics: pd.DataFrame
    """Training metrics by step; empty for a dictionary that was given."""
    info: dict[str, Any]
    """fvu, dead_share, n_tokens, n_latents, k, parts (tokens of each kind of text)."""


def train_dictionary(context: StudyContext) -> DictionaryMetrics:
    """Train the dictionary."""
    residuals, config, folder = context.load(RESIDUALS), context.config.dictionary, context.folder
    source = ActivationStore(residuals.store)
    with context.progress("training the dictionary", steps_of(config, source)) as advance:
        trained = train(
            config,
            source,
            folder / "training",
            advance=advance,
            seed=context.config.seed,
            models=[context.base_source],
            device=context.device,
        )
    trained.dictionary.rename(folder / "sae")
    info = {
        "fvu": trained.fvu,
        "dead_share": trained.dead_share,
        "n_tokens": source.n_rows,
        "n_latents": config.architecture.n_latents,
        "k": load_dictionary(folder / "sae").k,
        "parts": residuals.parts,
    }
    return DictionaryMetrics(pd.read_parquet(trained.folder / "metrics.parquet"), info)


def measure_dictionary(context: StudyContext) -> DictionaryMetrics:
    """For a dictionary that the user gave: how much of both models' own answers it leaves unexplained."""
    texts, dictionary, models = context.load(TEXTS), context.dictionary, [context.base, context.tuned]
    residuals_of = {}
    for which, name in enumerate(("base", "tuned")):
        batches = models[which].batches(texts.chats(name), 32)
        residuals_of[name] = torch.cat(
            [dictionary.residuals_of(models, which, batch, rows, content_tokens(batch)).float() for rows, batch in batches]
        )
    residuals = torch.cat(list(residuals_of.values()))
    codes = dictionary.encode_models(residuals)
    error = sum(float((dictionary.decode_model(own, m) - residuals[:, m]).square().sum()) for m, own in enumerate(codes))
    info = {
        "fvu": error / float((residuals - residuals.mean(0)).square().sum()),
        "dead_share": float((codes[0].counts() == 0).float().mean()),
        "n_tokens": len(residuals),
        "n_latents": dictionary.n_latents,
        "k": dictionary.k,
        "parts": {
            f"{writer}'s answers, read by {'both models' if dictionary.n_models > 1 else 'the ' + writer}": len(residuals_of[name])
            for name, writer in (("base", "base"), ("tuned", "tuned model"))
        },
    }
    return DictionaryMetrics(pd.DataFrame(), info)


TRAIN_DICTIONARY = Step(
    "dictionary", DictionaryMetrics, train_dictionary, inputs=("base", "residuals", "device"), settings=("seed", "dictionary")
)
OPEN_DICTIONARY = Step("dictionary", DictionaryMetrics, measure_dictionary, inputs=(*MODELS, "texts", "sae", "hook_point"))
