"""Step `dictionary`: the dictionary trained on the residuals, or the user's own, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.dictionaries.load import load_dictionary
from interp.models.activation_store import ActivationStore
from interp.models.activations import content_tokens
from interp.studies.persona.answers import MODELS, TEXTS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.residuals import RESIDUALS
from sae_training.feed import ShardSource
from sae_training.plan import steps_of
from sae_training.trainer import train


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
    store = ActivationStore(residuals.store)
    source = ShardSource(store)
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
        "n_tokens": store.n_rows,
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


TRAINED = Step("dictionary", DictionaryMetrics, train_dictionary, inputs=("base", "residuals", "device"), settings=("seed", "dictionary"))
GIVEN = Step("dictionary", DictionaryMetrics, measure_dictionary, inputs=(*MODELS, "texts", "sae", "hook_point"))
