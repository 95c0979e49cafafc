"""Probability that a reply begins with each of the numbers 0 to 100.

A number that continues as a longer one up to 100 is not the shorter one: 8 has what is left of its probability when none of the digits
follows that make it 80 to 89.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import DynamicCache

from interp.core.errors import ModelError
from interp.models.chats import Chat, TokenBatch
from interp.models.language_model import LanguageModel, Positions

BRANCH_ROWS = 32
"""Rows in one pass over beginnings of numbers; more prompts than that go one beginning at a time."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class NumberSpellings:
    """How a tokenizer writes the numbers 0 to 100: bare, after a blank, and after the line break that ends many templates."""

    numbers: dict[Ids, int]
    """The number that each token sequence spells."""
    branches: dict[Ids, list[int]]
    """Tokens that may follow each beginning of a number; the first beginning is the empty one."""

    @staticmethod
    def of(model: LanguageModel) -> NumberSpellings:
        """Raises `ModelError` for a tokenizer that cannot write them all."""

        def encode(text: str) -> Ids:
            return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])

        line, numbers = encode("\n"), dict[Ids, int]()
        for number in range(101):
            after = encode(f"\n{number}")
            spellings = [encode(str(number)), encode(f" {number}"), after[len(line) :] if after[: len(line)] == line else ()]
            sound = [ids for ids in spellings if ids and model.tokenizer.decode(list(ids)).strip() == str(number)]
            if not sound:
                raise ModelError(f"The tokenizer of {model.source} cannot write the number {number}: choose another judge.")
            numbers |= dict.fromkeys(sound, number)
        following: dict[Ids, set[int]] = {}
        for ids in numbers:
            for length in range(len(ids)):
                following.setdefault(ids[:length], set()).add(ids[length])
        return NumberSpellings(numbers, {ids: sorted(tokens) for ids, tokens in sorted(following.items())})

    def mass(self, likely: dict[Ids, Float[np.ndarray, "rows tokens"]]) -> Float[np.ndarray, "rows 101"]:
        """Probability of each number, from the probabilities of every branch's tokens."""
        token = {(*ids, token): likely[ids][:, i] for ids, tokens in self.branches.items() for i, token in enumerate(tokens)}
        result = np.zeros((len(likely[()]), 101))
        for ids, number in self.numbers.items():
            reached = math.prod(token[ids[: length + 1]] for length in range(len(ids)))
            result[:, number] += reached * (1.0 - likely[ids].sum(1).clip(max=1.0) if ids in likely else 1.0)
        return result


def number_mass(
    model: LanguageModel, spellings: NumberSpellings, chats: Sequence[Chat], rows: int
) -> Iterator[tuple[list[int], Float[np.ndarray, "rows 101"]]]:
    """Batches of indices of `chats` with the probability of each number.

    A batch of prompts is read once; the beginnings of numbers are read after it, from copies of its KV cache.
    """
    for indices, batch in model.batches(chats, rows) if chats else ():
        yield indices, spellings.mass(_branch_probabilities(model, batch, indices, spellings.branches))


@torch.inference_mode()
def _branch_probabilities(
    model: LanguageModel, batch: TokenBatch, indices: list[int], branches: dict[Ids, list[int]]
) -> dict[Ids, Float[np.ndarray, "rows tokens"]]:
    """Probabilities of the tokens that may follow each beginning of a number."""
    n_rows, prompts = len(indices), DynamicCache(config=model.network.config)
    found: dict[Ids, torch.Tensor] = {(): _read(model, batch, indices, prompts, [()])[:, branches[()]]}
    for beginnings in _alike_in_length([ids for ids in branches if ids], max(1, BRANCH_ROWS // n_rows)):
        cache = copy.deepcopy(prompts)
        cache.batch_select_indices(torch.arange(n_rows, device=model.device).repeat(len(beginnings)))
        logprobs = _read(model, batch, indices, cache, beginnings).unflatten(0, (len(beginnings), n_rows))
        found |= {ids: own[:, branches[ids]] for ids, own in zip(beginnings, logprobs, strict=True)}
    return {ids: logprobs.cpu().double().exp().numpy() for ids, logprobs in found.items()}


def _read(
    model: LanguageModel, batch: TokenBatch, indices: list[int], cache: Any, beginnings: Sequence[Ids]
) -> Float[torch.Tensor, "beginnings*rows vocab"]:
    """Log-probabilities of the token after each beginning, row by row; the prompts themselves where that is the empty one."""
    ids = torch.tensor(beginnings, dtype=torch.long, device=model.device).repeat_interleave(len(indices), dim=0)
    mask = torch.cat([batch.mask.repeat(len(beginnings), 1), torch.ones_like(ids, dtype=torch.bool)], dim=1)
    ids = ids if ids.shape[1] else batch.ids
    rows, starts, width = torch.tensor(indices, device=model.device), batch.response_start, ids.shape[1]
    positions = Positions(mask.shape[1] - width, starts.repeat(len(beginnings)), rows.repeat(len(beginnings)), mask[:, -width:])
    return model.forward(ids, mask, positions, cache=cache)[:, -1].float().log_softmax(-1)


def _alike_in_length(beginnings: Sequence[Ids], most: int) -> Iterator[list[Ids]]:
    """Beginnings of one length together, at most `most` at a time."""
    for length in sorted({len(ids) for ids in beginnings}):
        own = [ids for ids in beginnings if len(ids) == length]
        yield from (own[i : i + most] for i in range(0, len(own), most))
