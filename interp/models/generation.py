"""Sampling answers in large batches: one prefill for equal prompts, finished rows dropped.

Every row draws from its own stream of uniform numbers, so an answer does not depend on which rows share its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch.nn.utils.rnn import pad_sequence

from interp.core.errors import ConfigError
from interp.models.chat_format import Answer
from interp.models.chats import Chat, TokenisedChat, batches_by_length, pad_left
from interp.models.cpu import CACHED_ROWS
from interp.models.language_model import LanguageModel, Positions
from interp.models.limits import check_room, no_numbers
from interp.models.sampling import SamplingConfig

NO_TOKEN = -1
"""Drawn where logits are no numbers."""
ROUNDING = 1e-3
"""How much less likely (nats) than `min_p` asks a token may be when candidates are taken, before the weights decide."""


@dataclass
class _Rows:
    """Rows still being decoded."""

    index: Int[torch.Tensor, " batch"]
    mask: Int[torch.Tensor, "batch position"]
    response_start: Int[torch.Tensor, " batch"]
    unread: Int[torch.Tensor, "batch unread"]
    """Last tokens, which the cache does not hold: one, or without a cache the whole row."""

    def select(self, keep: torch.Tensor) -> _Rows:
        return _Rows(self.index[keep], self.mask[keep], self.response_start[keep], self.unread[keep])


def generate(
    model: LanguageModel,
    chats: Sequence[Chat],
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
    streams: Sequence[int] | None = None,
) -> list[str]:
    """The text of an answer to each prompt, as of `answers`, empty where there is none."""
    return [answer.text for answer in answers(model, chats, sampling, seed, progress, streams)]


def answers(
    model: LanguageModel,
    chats: Sequence[Chat],
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
    streams: Sequence[int] | None = None,
) -> list[Answer]:
    """An answer to each prompt, in order, its thoughts kept apart; it ends where the model writes the chat's next turn itself.

    `progress` is called with the number of answers finished since the last call. `streams[i]` numbers the stream of random
    numbers that chat i draws from, its own place by default. Stream n is the same in every call with this seed, so the chats of
    one call may be asked in several. Raises `ConfigError` unless there is one stream a chat.
    """
    streams = range(len(chats)) if streams is None else streams
    if len(streams) != len(chats):
        raise ConfigError(f"There are {len(chats)} chats and {len(streams)} streams of random numbers. Give one stream a chat.")
    prompts = [chat.prompt for chat in chats]
    distinct = list(dict.fromkeys(prompts))
    known = dict(zip(distinct, model.tokenise(distinct), strict=True))
    tokenised = [known[prompt] for prompt in prompts]
    uniforms = torch.rand(max(streams, default=-1) + 1, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    uniforms = uniforms[list(streams)].to(model.device)
    result = [Answer("")] * len(chats)
    for indices in batches_by_length([len(t.ids) for t in tokenised], sampling.batch_rows):
        written = decode(model, [tokenised[i] for i in indices], indices, sampling, uniforms)
        for index, ids in zip(indices, written, strict=True):
            result[index] = model.format.answer(ids)
        if progress:
            progress(len(indices))
    return result


@torch.inference_mode()
def decode(
    model: LanguageModel, prompts: list[TokenisedChat], indices: list[int], sampling: SamplingConfig, uniforms: torch.Tensor
) -> list[list[int]]:
    """Token ids of the answers of one batch, stop tokens left out.

    Raises `ModelError` where they would be longer than the model's table of positions, and where logits are not finite.
    """
    from interp.models.cpu.shared_prompt import shared_attention

    check_room(model.network, model.source, max(len(prompt.ids) for prompt in prompts), sampling.max_new_tokens)
    rows, cache = _prefill(model, prompts, indices)
    written: dict[int, list[int]] = {index: [] for index in indices}
    alive, stop = indices, set(model.stop_ids)
    for step in range(sampling.max_new_tokens):
        first = rows.mask.shape[1] - rows.unread.shape[1]
        positions = Positions(first, rows.response_start, rows.index, rows.mask[:, first:].bool())
        with shared_attention(model.network, cache):
            logits = model.forward(rows.unread, rows.mask, positions, cache=cache)[:, -1].float()
        tokens = draw(logits, sampling, uniforms[rows.index, step])
        rows.unread = tokens[:, None] if cache is not None else torch.cat([rows.unread, tokens[:, None]], dim=1)
        rows.mask = torch.cat([rows.mask, torch.ones_like(rows.mask[:, :1])], dim=1)
        drawn = tokens.tolist()  # the only wait for the device in a step
        if NO_TOKEN in drawn:
            raise no_numbers(model.source, model.dtype)
        keep = [place for place, token in enumerate(drawn) if token not in stop]
        for place in keep:
            written[alive[place]].append(drawn[place])
        if not keep:
            break
        if len(keep) < len(drawn):
            alive, kept = [alive[place] for place in keep], torch.tensor(keep, device=model.device)
            rows = rows.select(kept)
            if cache is not None:
                cache.reorder_cache(kept)
    return [written[index] for index in indices]


def _prefill(model: LanguageModel, prompts: list[TokenisedChat], indices: list[int]) -> tuple[_Rows, Any]:
    """Read all but the last prompt token, once for rows whose prompt (and whose edit of it) is the same.

    What all prompts begin with (template, system prompt) is read first and once for every edit of it; the padding of shorter
    prompts stands after it. Nothing is read, and the cache is None, for a network whose state no cache holds.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    from interp.models.cpu.shared_prompt import SharedPromptCache, can_share

    index = torch.tensor(indices, device=model.device)
    cache = DynamicCache(config=model.network.config)
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if not model.network._supports_default_dynamic_cache() or (model.network._is_stateful and not recurrent):
        batch = pad_left(prompts, model.pad_id).to(model.device)
        return _Rows(index, batch.mask.long(), batch.response_start, batch.ids), None
    known = model.prompt_signatures or []
    signatures = [known[i] if i < len(known) else None for i in indices]  # the hooks of edited_rows refuse a row too many
    unique, row_of = _distinct([(tuple(p.ids), s) for p, s in zip(prompts, signatures, strict=True)])
    edits, edit_of = _distinct([signatures[row] for row in unique])
    counts_columns = recurrent or any(cache.is_sliding)  # so padding inside a row would enter the state, or shorten the window
    shared = 0 if counts_columns else _common_prefix([prompts[row].ids for row in unique])
    rest = [TokenisedChat(prompts[row].ids[shared:], prompts[row].roles[shared:], prompts[row].n_prompt - shared) for row in unique]
    batch = pad_left(rest, model.pad_id).to(model.device)
    start = batch.response_start + shared
    sinks = _sinks(model, [prompts[row] for row in unique], shared, shared + batch.ids.shape[1]) if model.sinks_wanted else None
    if shared:
        ids = torch.tensor([prompts[0].ids[:shared]] * len(edits), device=model.device)
        rows = [unique[row] for row in edits]
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        positions = Positions(0, start[edits], index[rows], everywhere, None if sinks is None else sinks[edits, :shared])
        model.run(ids, everywhere, positions, cache=cache)
        cache.reorder_cache(torch.tensor(edit_of, device=model.device))
    mask = torch.cat([torch.ones(len(unique), shared, dtype=torch.long, device=model.device), batch.mask.long()], dim=1)
    if batch.ids.shape[1] > 1:
        positions = Positions(shared, start, index[unique], batch.mask[:, :-1], None if sinks is None else sinks[:, shared:-1])
        model.run(batch.ids[:, :-1], mask[:, :-1], positions, cache=cache)
    source = torch.tensor(row_of, device=model.device)
    if can_share(model.network, cache, row_of):
        cache = SharedPromptCache(cache, row_of)
    elif len(unique) < len(prompts):
        cache.reorder_cache(source)
    return _Rows(index, mask[source], start[source], batch.ids[source, -1:]), cache


def _sinks(model: LanguageModel, prompts: Sequence[TokenisedChat], shared: int, width: int) -> Bool[torch.Tensor, "prompts width"]:
    """True at the attention sinks before each prompt's last token: its first `shared` tokens stand on the left, the others on the right."""
    columns = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, (prompt, positions) in enumerate(zip(prompts, model.sinks([tuple(p.ids[:-1]) for p in prompts]), strict=True)):
        columns[row, [place if place < shared else width - len(prompt.ids) + place for place in positions]] = True
    return columns.to(model.device)


def _distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """First position of every distinct key, and for each key the place of its own among them."""
    first: dict[Hashable, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    place = {key: number for number, key in enumerate(first)}
    return list(first.values()), [place[key] for key in keys]


def _common_prefix(ids: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all share; at least one token of each is left over."""
    shortest = min(len(row) for row in ids) - 1
    return next((i for i in range(shortest) if any(row[i] != ids[0][i] for row in ids)), max(shortest, 0))


def draw(
    logits: Float[torch.Tensor, "batch vocab"], sampling: SamplingConfig, uniforms: Float[torch.Tensor, " batch"]
) -> Int[torch.Tensor, " batch"]:
    """One token a row by inverting the cumulative distribution at `uniforms`; greedy at temperature 0.

    `NO_TOKEN` where the largest logit is not finite.
    """
    if sampling.temperature == 0.0:
        largest, likeliest = logits.max(-1)
        return likeliest.masked_fill(~largest.isfinite(), NO_TOKEN)
    rows = CACHED_ROWS if logits.device.type == "cpu" else max(len(logits), 1)
    return torch.cat([_draw(*part, sampling) for part in zip(logits.split(rows), uniforms.split(rows), strict=True)])


def _draw(
    logits: Float[torch.Tensor, "batch vocab"], uniforms: Float[torch.Tensor, " batch"], sampling: SamplingConfig
) -> Int[torch.Tensor, " batch"]:
    places = None
    if sampling.min_p > 0.0 and logits.device.type == "cpu":  # so few are left that the vocabulary is passed over twice, not six times
        least = logits.amax(-1, keepdim=True) + sampling.temperature * (math.log(sampling.min_p) - ROUNDING)
        places = pad_sequence([(~(row < bound)).nonzero()[:, 0] for row, bound in zip(logits, least, strict=True)], True, -1)
        logits = logits.gather(-1, places.clamp(min=0)).masked_fill_(places < 0, -torch.inf)
    largest = logits.amax(-1, keepdim=True)
    weights = (logits - largest).div_(sampling.temperature).exp_()  # the likeliest token weighs 1
    if sampling.min_p > 0.0:
        weights.masked_fill_(weights < sampling.min_p, 0.0)
    if sampling.top_p < 1.0:
        from transformers import TopPLogitsWarper

        weights = TopPLogitsWarper(sampling.top_p)(None, weights.log()).exp()
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    wanted = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding may reach it
    drawn = torch.searchsorted(cumulative, wanted, right=True).clamp(max=logits.shape[-1] - 1)  # NaN is sorted behind the last
    return (drawn if places is None else places.gather(-1, drawn)).masked_fill(~largest.isfinite(), NO_TOKEN)[:, 0]
