"""A card for a latent: where it fires most, how often in each model, which latents lie near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from interp.dictionaries.dictionary import Dictionary
from interp.models.activations import content_tokens
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel

EXAMPLES = 8
BINS = 40


@dataclass(frozen=True)
class Source:
    """Chats to look for examples in, and which model reads them. A crosscoder reads with both, whichever it is."""

    name: str
    which: int
    """0: the base reads them. 1: the tuned model."""
    chats: Sequence[Chat]
    histogram: str | None = None
    """`base` or `tuned` where the tokens count for that histogram."""


@dataclass
class _Record:
    """What one latent showed so far."""

    examples: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """The strongest, with their peaks, in order; of equal ones the earlier first."""
    values: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {"base": [], "tuned": []})


def latent_cards(
    dictionary: Dictionary,
    models: Sequence[LanguageModel],
    latents: Sequence[int],
    sources: Sequence[Source],
    statistics: Mapping[int, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """One card a latent, as plain JSON: top examples (one a chat at most), histograms, nearest decoder rows, `statistics`.

    `models` are base and tuned.
    """
    found = {latent: _Record() for latent in latents}
    for source in sources:
        model = models[source.which]
        for rows, batch in model.batches(source.chats, 32):
            selected = content_tokens(batch)
            codes = dictionary.encode_models(dictionary.residuals_of(models, source.which, batch, rows, selected))[-1]
            for latent, record in found.items():
                dense = torch.zeros(selected.shape)
                dense[selected.cpu()] = codes.column(latent).float().cpu()
                if source.histogram:
                    record.values[source.histogram].append(dense[selected.cpu()])
                for row, peak in enumerate(dense.amax(1).tolist()):
                    if peak <= 0 or (len(record.examples) == EXAMPLES and peak <= record.examples[-1][0]):
                        continue
                    ids = batch.ids[row][selected[row]]
                    example = {
                        "text_source": source.name,
                        "tokens": [model.tokenizer.decode([int(i)]) for i in ids],
                        "activations": [round(float(a), 4) for a in dense[row][selected[row].cpu()]],
                    }
                    record.examples = sorted([*record.examples, (peak, example)], key=lambda item: -item[0])[:EXAMPLES]
    return [_card(dictionary, latent, found[latent], statistics[latent]) for latent in latents]


def _card(dictionary: Dictionary, latent: int, found: _Record, statistics: Mapping[str, float]) -> dict[str, Any]:
    examples = [example for _, example in found.examples]
    values = {name: torch.cat(parts).numpy() if parts else np.zeros(0) for name, parts in found.values.items()}
    peak = max([float(v.max()) for v in values.values() if len(v)] + [float(max(e["activations"])) for e in examples] + [1e-9])
    edges = np.linspace(0.0, peak, BINS + 1)
    histogram: dict[str, Any] = {"edges": [round(float(edge), 4) for edge in edges]}
    for name, data in values.items():
        active = data[data > 0]
        histogram[name] = np.histogram(active, bins=edges)[0].tolist()
        histogram[f"zero_{name}"] = float((data <= 0).mean()) if len(data) else 1.0
    decoder_rows = dictionary.decoder_rows()
    cosines = torch.nn.functional.cosine_similarity(decoder_rows, decoder_rows[latent][None], dim=-1)
    nearest = cosines.topk(min(6, dictionary.n_latents)).indices.tolist()
    return {
        "latent": latent,
        **{name: float(value) for name, value in statistics.items()},
        "peak": peak,
        "examples": examples,
        "histogram": histogram,
        "neighbours": [{"latent": n, "cosine": round(float(cosines[n]), 4)} for n in nearest if n != latent][:5],
    }
