"""One pass over each model's answers: per-latent, per-question means, in memory that does not grow with tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from interp.activations import capture, response_phase
from interp.chats import Chat, TokenBatch
from interp.dictionaries import Dictionary
from interp.errors import ActivationError
from interp.models import LanguageModel


@dataclass(frozen=True)
class Moments:
    """Latent statistics of one model on one set of chats."""

    response_means: Float[torch.Tensor, "questions latents"]
    """Mean activation over the response phase, pooled over a question's chats."""
    prompt_end_means: Float[torch.Tensor, "questions latents"]
    """Mean activation at the last prompt token."""
    firing_rate: Float[torch.Tensor, " latents"]
    """Share of response-phase tokens at which the latent fires."""
    n_tokens: int
    """Response-phase tokens read."""


def last_prompt_token(batch: TokenBatch) -> torch.Tensor:
    """True at the last prompt token of each row."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    return columns == batch.response_start[:, None]


def collect_moments(
    model: LanguageModel,
    dictionary: Dictionary,
    chats: Sequence[Chat],
    questions: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> Moments:
    """Read `chats` with `model` and encode sparsely; `questions[i]` is the index of chat i's question.

    Raises `ActivationError` when a question has no token in the response phase.
    """
    n_questions, n_latents = max(questions) + 1, dictionary.n_latents
    sums = {phase: torch.zeros(n_questions, n_latents, dtype=torch.float64) for phase in ("response", "prompt_end")}
    tokens = {phase: torch.zeros(n_questions, dtype=torch.float64) for phase in sums}
    fired = torch.zeros(n_latents, dtype=torch.long)
    for captured in capture(model, chats, [dictionary.hook_point], progress=progress):
        residual = captured.residuals[dictionary.hook_point]
        owner = torch.tensor([questions[row] for row in captured.rows])
        for phase, selected in (("response", response_phase(captured.batch)), ("prompt_end", last_prompt_token(captured.batch))):
            codes = dictionary.encode(residual[selected])
            row = owner[selected.nonzero()[:, 0].cpu()]
            flat = row[codes.tokens.cpu()] * n_latents + codes.flat_indices.cpu()
            sums[phase].view(-1).index_add_(0, flat, codes.flat_values.double().cpu())
            tokens[phase].index_add_(0, row, torch.ones(len(row), dtype=torch.float64))
            if phase == "response":
                fired += codes.counts(n_latents)
    if bool((tokens["response"] == 0).any()):
        raise ActivationError("A question has no response token in the answers of a model. Sample longer answers.")
    means = {phase: (sums[phase] / tokens[phase][:, None]).float() for phase in sums}
    total = int(tokens["response"].sum())
    return Moments(means["response"], means["prompt_end"], fired.double() / total, total)
