"""Sampling answers in large batches: one prefill for equal prompts, finished rows dropped.

Every row draws from its own stream of uniform numbers, so an answer does not depend on which rows share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from pydantic import Field

from interp.chats import Chat, TokenisedChat, batches_by_length, pad_left
from interp.config import StepConfig
from interp.models import LanguageModel, Positions, position_ids


class SamplingConfig(StepConfig):
    """How answers are drawn."""

    max_new_tokens: int = Field(default=40, ge=1)
    """Tokens an answer may have at most."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits; 0 is greedy decoding."""
    min_p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Tokens less likely than this share of the likeliest are never drawn (no sort over the vocabulary is needed)."""
    batch_rows: int = Field(default=96, ge=1)
    """Rows decoded together."""


@dataclass
class _Rows:
    """Rows still being decoded."""

    index: Int[torch.Tensor, " batch"]
    mask: Int[torch.Tensor, "batch position"]
    response_start: Int[torch.Tensor, " batch"]
    tokens: Int[torch.Tensor, " batch"]

    def select(self, keep: torch.Tensor) -> _Rows:
        return _Rows(self.index[keep], self.mask[keep], self.response_start[keep], self.tokens[keep])


def generate(
    model: LanguageModel,
    chats: Sequence[Chat],
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
    streams: int | None = None,
) -> list[str]:
    """An answer to each prompt, in order.

    `progress` is called with the number of answers finished since the last call. `streams` is the number of independent
    streams of random numbers (one a chat by default): chat i draws from stream `i % streams`.
    """
    tokenised = model.tokenise([chat.prompt for chat in chats])
    streams = streams or len(chats)
    uniforms = torch.rand(streams, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    uniforms = uniforms[torch.arange(len(chats)) % streams].to(model.device)
    answers: list[str] = [""] * len(chats)
    for indices in batches_by_length([len(t.ids) for t in tokenised], sampling.batch_rows):
        written = _decode(model, [tokenised[i] for i in indices], indices, sampling, uniforms)
        for index, ids in zip(indices, written, strict=True):
            answers[index] = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if progress:
            progress(len(indices))
    return answers


@torch.inference_mode()
def _decode(
    model: LanguageModel, prompts: list[TokenisedChat], indices: list[int], sampling: SamplingConfig, uniforms: torch.Tensor
) -> list[list[int]]:
    """Token ids of the answers of one batch, stop tokens left out."""
    from transformers import DynamicCache

    rows, cache = _prefill(model, prompts, indices, DynamicCache(config=model.network.config))
    written: dict[int, list[int]] = {index: [] for index in indices}
    stop = torch.tensor(model.stop_ids, device=model.device)
    for step in range(sampling.max_new_tokens):
        logits = _forward(model, rows, cache)
        drawn = draw(logits, sampling, uniforms[rows.index, step])
        alive = ~torch.isin(drawn, stop)
        for index, token, goes_on in zip(rows.index.tolist(), drawn.tolist(), alive.tolist(), strict=True):
            if goes_on:
                written[index].append(token)
        rows.tokens = drawn
        rows.mask = torch.cat([rows.mask, torch.ones_like(rows.mask[:, :1])], dim=1)
        if not bool(alive.all()):
            keep = alive.nonzero()[:, 0]
            if not len(keep):
                break
            rows = rows.select(keep)
            cache.batch_select_indices(keep)
    return [written[index] for index in indices]


def _prefill(model: LanguageModel, prompts: list[TokenisedChat], indices: list[int], cache: object) -> tuple[_Rows, object]:
    """Read all but the last prompt token, once for rows whose prompt (and whose edit of it) is the same."""
    signatures = model.prompt_signatures
    keys = [(tuple(p.ids), signatures[i] if signatures else None) for p, i in zip(prompts, indices, strict=True)]
    first_of = {key: row for row, key in reversed(list(enumerate(keys)))}
    unique = sorted(first_of.values())
    place = {row: n for n, row in enumerate(unique)}
    source = torch.tensor([place[first_of[key]] for key in keys], device=model.device)

    batch = pad_left([prompts[row] for row in unique], model.pad_id).to(model.device)
    index = torch.tensor(indices, device=model.device)
    if batch.ids.shape[1] > 1:
        mask = batch.mask[:, :-1]
        with model.standing(Positions(0, batch.response_start, index[unique], mask)):
            model.network(
                input_ids=batch.ids[:, :-1],
                attention_mask=mask.long(),
                position_ids=position_ids(mask),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if len(unique) < len(prompts):
            cache.batch_select_indices(source)  # type: ignore[attr-defined]
    return _Rows(index, batch.mask.long()[source], batch.response_start[source], batch.ids[source, -1]), cache


def _forward(model: LanguageModel, rows: _Rows, cache: object) -> Float[torch.Tensor, "batch vocab"]:
    """Logits after each row's newest token."""
    newest = torch.ones_like(rows.mask[:, :1], dtype=torch.bool)
    with model.standing(Positions(rows.mask.shape[1] - 1, rows.response_start, rows.index, newest)):
        output = model.network(
            input_ids=rows.tokens[:, None],
            attention_mask=rows.mask,
            position_ids=rows.mask.sum(-1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
    return output.logits[:, -1].float()


def draw(
    logits: Float[torch.Tensor, "batch vocab"], sampling: SamplingConfig, uniforms: Float[torch.Tensor, " batch"]
) -> Int[torch.Tensor, " batch"]:
    """One token a row by inverting the cumulative distribution at `uniforms`; greedy at temperature 0."""
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    weights = torch.exp((logits - logits.amax(-1, keepdim=True)) / sampling.temperature)  # the likeliest token weighs 1
    if sampling.min_p > 0.0:
        weights = torch.where(weights < sampling.min_p, 0.0, weights)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    wanted = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding may reach it
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0]
