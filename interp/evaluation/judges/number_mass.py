"""Probability that a reply begins with each of the numbers 0 to 100.

A number that continues as a longer one up to 100 is not the shorter one: 8 has what is left of its probability when none of the digits
follows that make it 80 to 89.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def number_mass(model: LanguageModel, spellings: NumberSpellings, chats: Sequence[Chat], rows: int) -> Float[np.ndarray, "chats 101"]:
    """Probability of each number as the beginning of the reply to each chat; `rows` are read together.

    A batch of prompts is read once; the beginnings of numbers are read after it, from copies of its KV cache.
    """
    masses = np.empty((len(chats), 101))
    for indices, batch in model.batches(chats, rows) if chats else ():
        masses[indices] = spellings.mass(_branch_probabilities(model, batch, indices, spellings.branches))
    return masses


@torch.inference_mode()
def _branch_probabilities(
    model: LanguageModel, batch: TokenBatch, indices: list[int], branches: dict[Ids, list[int]]
) -> dict[Ids, Float[np.ndarray, "rows tokens"]]:
    """Probabilities of the tokens that may follow each beginning of a number."""
    prompts, rows = DynamicCache(config=model.network.config), torch.tensor(indices, device=model.device)
    likely = {}
    for beginning, tokens in branches.items():  # the empty one, which fills the cache, comes first
        ids = torch.tensor([beginning] * len(indices), device=model.device) if beginning else batch.ids
        mask = torch.cat([batch.mask, torch.ones_like(ids, dtype=torch.bool)], dim=1) if beginning else batch.mask
        width = ids.shape[1]
        positions = Positions(mask.shape[1] - width, batch.response_start, rows, mask[:, -width:])
        logits = model.forward(ids, mask, positions, cache=copy.deepcopy(prompts) if beginning else prompts)[:, -1]
        likely[beginning] = logits.float().log_softmax(-1)[:, tokens].cpu().double().exp().numpy()
    return likely
