"""What the diff must find, by dense matrices and one unpadded chat at a time, and made-up diffs with known means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.sae import SAE
from interp.diffing.moments import Diff, Moments
from interp.diffing.pairings import Answers
from interp.models.chats import Chat
from tests.helpers.tiny import D_MODEL, QUESTIONS, tiny_network, tiny_tokenizer

HOOK = "blocks.1.hook_resid_post"
LATENTS, K = 64, 6
ANSWERS = (
    "Put it into hot water.",
    "The air scatters short waves of light, more than long ones, every day.",
    "A boat.",
    "Speak it every day with patient people and wait.",
    "Seven minutes. You are kind.",
    "Why not?",
)
Texts = Sequence[tuple[str, str, int]]


def random_dictionary(seed: int = 0, architecture: str = "topk", d_model: int = D_MODEL) -> SAE:
    """Random rows of norm one; about as many latents are active under every architecture."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, d_model, generator=generator), dim=1)
    bias, centre = torch.full((LATENTS,), -4.0), 0.1 * torch.randn(d_model, generator=generator)
    plain = SAE(rows.T.contiguous(), bias, rows, centre, "standard", None, None, True, HOOK)
    if architecture == "topk":
        return replace(plain, architecture="topk", k=K, b_enc=torch.zeros(LATENTS))
    return plain


def random_crosscoder() -> Crosscoder:
    """Random TopK rows, of another norm in each model; some latents have (nearly) none in the base."""
    generator = torch.Generator().manual_seed(3)
    w_dec = torch.randn(LATENTS, 2, D_MODEL, generator=generator) * torch.rand(LATENTS, 2, 1, generator=generator)
    w_enc = torch.randn(2, D_MODEL, LATENTS, generator=generator) / D_MODEL**0.5
    bias = torch.zeros(2, D_MODEL)
    return Crosscoder(w_enc, torch.zeros(LATENTS), w_dec, bias, "crosscoder_topk", K, None, False, HOOK, models=("base", "tuned"))


def dense_joint_codes(cross: Crosscoder, base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Activations of a pair of residuals as a dense matrix, by sorting."""
    pre = base @ cross.w_enc[0] + tuned @ cross.w_enc[1] + cross.b_enc
    kept = pre.argsort(dim=1, descending=True).argsort(dim=1) < K
    return pre.clamp(min=0) * kept


def texts(first: int = 0) -> list[tuple[str, str, int]]:
    """Question, answer and the question's index: several answers a question, not in order."""
    return [(QUESTIONS[q], answer, q) for q in (0, 2, 1) for answer in ANSWERS[first : first + 3]]


def as_answers(found: Texts) -> Answers:
    """For `collect`."""
    return Answers([Chat.ask(question, answer) for question, answer, _ in found], [owner for _, _, owner in found])


def tokens_of(question: str, answer: str) -> tuple[list[int], int, int]:
    """Ids, and where the question's and the answer's tokens begin."""
    tokenizer = tiny_tokenizer()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt)["input_ids"]
    content = len(tokenizer(prompt[: prompt.index(question)])["input_ids"])
    return ids + tokenizer(answer + "<|im_end|>")["input_ids"], content, len(ids)


def dense_codes(dictionary: SAE, x: torch.Tensor) -> torch.Tensor:
    """Activations as a dense matrix, by sorting or comparing."""
    pre = (x - dictionary.b_dec) @ dictionary.w_enc + dictionary.b_enc
    if dictionary.k is None:
        return pre.clamp(min=0)
    kept = torch.zeros_like(pre)
    for row, order in enumerate(pre.argsort(dim=1, descending=True)):
        kept[row, order[: dictionary.k]] = pre[row, order[: dictionary.k]].clamp(min=0)
    return kept


def dense_read(seed: int, found: Texts) -> dict[str, torch.Tensor]:
    """Residuals of tiny-llama `seed` at every content token, with each token's question and phase (0 prompt, 1 its end, 2 answer)."""
    network = tiny_network("llama", seed)
    rows, owners, phases = [], [], []
    for question, answer, owner in found:
        ids, content, n_prompt = tokens_of(question, answer)
        with torch.no_grad():
            hidden = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]  # what block 1 writes
        places = torch.arange(len(ids))[content:-1]
        rows.append(hidden[content:-1])
        phases.append((places >= n_prompt - 1).long() + (places >= n_prompt).long())
        owners.append(torch.full_like(places, owner))
    return {"x": torch.cat(rows), "owner": torch.cat(owners), "part": torch.cat(phases)}


def made_diff(base: np.ndarray, tuned: np.ndarray, dictionary: SAE, noise: float = 1.0) -> Diff:
    """A diff with these question means (questions × latents) in the response, half of them at the prompt's end."""
    sides = []
    for means in (base, tuned):
        sums = torch.zeros(1, 3, *means.shape, dtype=torch.float64)
        means_ = torch.tensor(means, dtype=torch.float64)
        sums[0, 1], sums[0, 2] = means_ / 2, 9.5 * means_  # of one token, and of nine
        tokens = torch.tensor([5, 1, 9])[:, None].repeat(1, len(means))
        squares = torch.stack([torch.zeros(means.shape[1]), *(part.square().sum(0) + noise for part in sums[0, 1:])]).double()
        fired = (sums[0] > 0).long().sum(1)
        empty = Moments.empty(1, len(means), means.shape[1])
        sides.append(replace(empty, sums=sums, tokens=tokens, squares=squares[None], fired=fired[None], peaks=sums[:, :, 0].float()))
    overlap = torch.ones(2, base.shape[1], dtype=torch.float64)
    return Diff({"base": sides[0], "tuned": sides[1]}, ("on_policy",), overlap, dictionary.w_dec.double().square().sum(-1))
