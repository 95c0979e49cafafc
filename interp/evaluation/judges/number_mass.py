"""Probability that a reply begins with each of the numbers 0 to 100.

A number that continues as a longer one up to 100 is not the shorter one: 8 has what is left of its probability when none of the digits
follows that make it 80 to 89. Of what else a number is the beginning, as of 8.5, the greedy reply tells (`Beginnings.texts`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from jaxtyping import Float
from transformers import DynamicCache

from interp.core.errors import ModelError
from interp.models.chats import Chat, TokenBatch
from interp.models.language_model import LanguageModel, Positions

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


@dataclass(frozen=True)
class Beginnings:
    """How the replies to chats begin."""

    masses: Float[np.ndarray, "chats 101"]
    """Probability of each number as the beginning of the reply."""
    texts: list[str]
    """The first tokens of the greedy reply."""


def number_mass(model: LanguageModel, spellings: NumberSpellings, chats: Sequence[Chat], rows: int) -> Beginnings:
    """Numbers as the beginnings of the replies to chats; `rows` are read together.

    A batch of prompts is read once; the beginnings of replies are read after it, from copies of its KV cache.
    """
    masses, texts = np.empty((len(chats), 101)), [""] * len(chats)
    for indices, batch in model.batches(chats, rows) if chats else ():
        reader = _PromptReader(model, batch, indices)
        masses[indices] = spellings.mass(reader.branch_probabilities(spellings.branches))
        for index, text in zip(indices, reader.greedy(), strict=True):
            texts[index] = text
    return Beginnings(masses, texts)


class _PromptReader:
    """A batch of prompts that was read once, and what may follow it."""

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, batch: TokenBatch, indices: list[int]) -> None:
        self.model, self.batch = model, batch
        self.rows = torch.tensor(indices, device=model.device)
        self.prompts = DynamicCache(config=model.network.config)
        self.logits = self._read(batch.ids, batch.mask, self.prompts)
        """What follows the prompts, `[rows, vocab]`."""

    def _read(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> Float[torch.Tensor, "rows vocab"]:
        width = ids.shape[1]
        positions = Positions(mask.shape[1] - width, self.batch.response_start, self.rows, mask[:, -width:])
        return self.model.forward(ids, mask, positions, cache=cache)[:, -1].float()

    @torch.inference_mode()
    def branch_probabilities(self, branches: dict[Ids, list[int]]) -> dict[Ids, Float[np.ndarray, "rows tokens"]]:
        """Probabilities of the tokens that may follow each beginning of a number."""
        likely = {}
        for beginning, tokens in branches.items():
            ids = torch.tensor([beginning] * len(self.rows), device=self.model.device, dtype=torch.long)
            mask = torch.cat([self.batch.mask, torch.ones_like(ids, dtype=torch.bool)], dim=1)
            logits = self._read(ids, mask, copy.deepcopy(self.prompts)) if beginning else self.logits
            likely[beginning] = logits.log_softmax(-1)[:, tokens].cpu().double().exp().numpy()
        return likely

    @torch.inference_mode()
    def greedy(self, tokens: int = 6) -> list[str]:
        """The first tokens of each row's greedy reply; they uncover what a number is part of."""
        cache, mask, drawn = copy.deepcopy(self.prompts), self.batch.mask, [self.logits.argmax(-1, keepdim=True)]
        while len(drawn) < tokens:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            drawn.append(self._read(drawn[-1], mask, cache).argmax(-1, keepdim=True))
        stop = set(self.model.stop_ids)
        replies = [list(takewhile(lambda token: token not in stop, row)) for row in torch.cat(drawn, dim=1).tolist()]
        return [str(self.model.tokenizer.decode(reply)) for reply in replies]
