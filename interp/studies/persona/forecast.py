"""How long the steps still to do will take on this machine: tokens that each sends through a model, over a measured rate."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import torch

from interp.models.cpu.packed_linear import pack_linears
from interp.models.sources import choose_device, choose_dtype, model_shape
from interp.studies.persona.config import StudyConfig

EFFICIENCY = 0.7
"""Rate of a whole job over that of its matrix products alone, as measured on the demo."""
PROMPT, READ, JUDGED = 15, 60, 25
"""Tokens: of a question beyond what is shared; of an answered question that is read; of an answer that is judged."""
CANDIDATES, CHAT, TOPICS = 16, 100, 30


def tokens_of(config: StudyConfig) -> dict[str, float]:
    """Tokens through all layers of the model, by step, roughly; a backward pass counts as much as a forward one."""
    text, diff, screen, evidence = config.text, config.diff, config.screen, config.verdict
    answer = config.sampling.max_new_tokens + PROMPT + JUDGED
    answers = diff.questions * diff.samples
    screened = 2 * CANDIDATES * screen.questions + diff.questions * (2 * screen.width + len(screen.doses) + screen.bisections)
    draws = 2 * (evidence.full_draws + (evidence.random_draws + evidence.active_draws) / evidence.parts)
    return {
        "organism": 2 * TOPICS * config.organism.phrasings_per_topic * config.organism.epochs * 50,
        "pairs": 4 * diff.persona_pairs * (48 + PROMPT + JUDGED),
        "texts": 2 * text.answered_prompts * (text.answer_tokens + 30),
        "residuals": 0.4 * (text.corpus_chats * CHAT + 4 * text.answered_prompts * READ + 200 * READ),
        "dictionary": 8_000,
        "answers": 2 * answers * (config.sampling.max_new_tokens + PROMPT),
        "directions": 7_000,
        "diff": 280 * answers,
        "screen": screened * answer,
        "evidence": evidence.questions * (4 * evidence.samples + 5 + draws) * answer,
        "verdict": 100,
        "after": 90 * answers,
        "cards": 5_000,
    }


def expected_seconds(config: StudyConfig, steps: Collection[str]) -> float:
    """Seconds that `steps` will take, by a product of half a second on this machine; right to a third or so."""
    d_model, n_layers = model_shape(config.base, config.trust_remote_code)
    tokens: Mapping[str, float] = tokens_of(config)
    work = sum(tokens.get(step, 0.0) for step in steps) * 24.0 * n_layers * d_model**2  # 12 d² weights a layer, 2 operations each
    return work / (EFFICIENCY * _operations_a_second(config, d_model))


def _operations_a_second(config: StudyConfig, d_model: int, seconds: float = 0.5) -> float:
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    layer = torch.nn.Linear(d_model, 4 * d_model, bias=False, device=device, dtype=dtype).requires_grad_(False)
    pack_linears(layer)
    x = torch.ones(192, d_model, device=device, dtype=dtype)  # no draw from the global generator
    layer(x).sum().item()
    done, started = 0, time.monotonic()
    while (took := time.monotonic() - started) < seconds:
        for _ in range(10):
            out = layer(x)
        out.sum().item()  # waits for the device
        done += 10
    return done * 2.0 * x.shape[0] * layer.weight.numel() / took
