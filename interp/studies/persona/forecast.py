"""How long the steps still to do will take on this machine: tokens that each sends through a model, over a measured rate."""

from __future__ import annotations

import operator
import time
from collections.abc import Collection

import torch

from interp.models.cpu.packed_linear import pack_linears
from interp.models.sources import choose_device, choose_dtype, model_shape, weight_counts
from interp.studies.persona.config import StudyConfig

EFFICIENCY = 0.7
"""Rate of a whole job over that of its matrix products alone, as measured on the demo."""
PROMPT, READ, JUDGED = 15, 60, 25
"""Tokens: of a question beyond what is shared; of an answered question that is read; of an answer that is judged."""
CHAT, TOPICS, QUESTIONS, CUES = 100, 30, 30, 6


def tokens_of(config: StudyConfig) -> dict[str, tuple[float, float]]:
    """By step, roughly: tokens through all blocks of the model, and those of them whose logits are computed.

    A backward pass counts as much as a forward one.
    """
    text, diff, screen, evidence, drawn = config.text, config.diff, config.screen, config.verdict, config.sampling.max_new_tokens
    answers = diff.questions * diff.samples
    sizes = screen.largest_set.bit_length()
    removed = 3 * (1 + len(screen.subtracted) + len(screen.subtracted_over_window)) + 4 + sizes
    added = 2 * len(screen.doses) + 18
    screened = (removed + added) * screen.questions + 9 * diff.questions
    draws = 2 * (evidence.full_draws + (evidence.random_draws + evidence.active_draws) / evidence.parts)
    asked = evidence.questions * (4 * evidence.samples + 10 + draws)
    cued = CUES * min(config.cues.questions, QUESTIONS) * (config.cues.samples + 2 * config.cues.reference_samples)
    trained = 2 * TOPICS * config.organism.phrasings_per_topic * config.organism.epochs
    pairs, prompts = 4 * diff.persona_pairs, 2 * text.answered_prompts
    return {
        "organism": (50 * trained, 30 * trained),
        "pairs": (pairs * (48 + PROMPT + JUDGED), pairs * 48),
        "texts": (prompts * (text.answer_tokens + 30), prompts * text.answer_tokens),
        "residuals": (0.4 * (text.corpus_chats * CHAT + 4 * text.answered_prompts * READ + 200 * READ), 0),
        "dictionary": (8_000, 0),
        "answers": (2 * answers * (drawn + PROMPT), 2 * answers * drawn),
        "directions": (7_000, 0),
        "diff": (280 * answers, 0),
        "fit": (100, 0),
        "persona_vectors": (READ * answers, 0),
        "screen": (screened * (drawn + PROMPT + JUDGED), screened * drawn),
        "benign": (len(config.benign) * diff.questions * (drawn + PROMPT + READ), len(config.benign) * diff.questions * drawn),
        "evidence": (asked * (drawn + PROMPT + JUDGED), asked * drawn),
        "verdict": (100, 0),
        "cues": (cued * (drawn + PROMPT + JUDGED), cued * drawn),
        "hiding": (100, 0),
        "after": (90 * answers, 0),
        "user_tokens": (64 * READ, 0),
        "cards": (5_000, 0),
    }


def expected_seconds(config: StudyConfig, steps: Collection[str]) -> float:
    """Seconds that `steps` will take, by a product of half a second on this machine; right to a third or so."""
    d_model, _ = model_shape(config.base, config.trust_remote_code)
    weights = weight_counts(config.base, config.trust_remote_code)
    tokens = tokens_of(config)
    work = sum(2.0 * sum(map(operator.mul, tokens.get(step, (0, 0)), weights)) for step in steps)
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
