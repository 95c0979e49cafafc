"""Which latents differ, and how surely: moments against plain loops, statistics against scipy, planted truths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import D_MODEL, QUESTIONS, tiny_model, tiny_network, tiny_tokenizer

from interp.chats import Chat
from interp.dictionaries import Dictionary
from interp.diffing.moments import Moments, collect_moments
from interp.diffing.rankings import candidates, cosine_with, latent_table, rise_in_mean
from interp.diffing.significance import bootstrap_means, q_values
from interp.errors import ActivationError, DictionaryError
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_answers
from interp.generation import SamplingConfig

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


def random_dictionary(seed: int = 0, k: int = K) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, D_MODEL, generator=generator), dim=1)
    return Dictionary(rows.T.contiguous(), torch.zeros(LATENTS), rows, torch.zeros(D_MODEL), "topk", k, None, False, HOOK)


def dense_moments(chats: Sequence[tuple[str, str]], owners: Sequence[int], dictionary: Dictionary) -> dict[str, torch.Tensor]:
    """The same by one unpadded chat at a time, Hugging Face's own hidden states and a dense matrix."""
    network, tokenizer = tiny_network("llama"), tiny_tokenizer()
    acts: dict[str, list[list[torch.Tensor]]] = {phase: [[] for _ in range(max(owners) + 1)] for phase in ("response", "prompt_end")}
    for (question, answer), owner in zip(chats, owners, strict=True):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt)["input_ids"]
        ids = prompt_ids + tokenizer(answer + "<|im_end|>")["input_ids"]
        with torch.no_grad():
            hidden = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]  # what block 1 writes
        pre = hidden @ dictionary.w_enc + dictionary.b_enc
        dense = torch.zeros_like(pre)
        for row, order in enumerate(pre.argsort(dim=1, descending=True)):
            dense[row, order[: dictionary.k]] = pre[row, order[: dictionary.k]].clamp(min=0)
        acts["response"][owner].append(dense[len(prompt_ids) - 1 : len(ids) - 1])
        acts["prompt_end"][owner].append(dense[len(prompt_ids) - 1][None])
    pooled = {phase: [torch.cat(parts) for parts in found] for phase, found in acts.items()}
    every = torch.cat(pooled["response"])
    return {
        "response": torch.stack([part.mean(0) for part in pooled["response"]]),
        "prompt_end": torch.stack([part.mean(0) for part in pooled["prompt_end"]]),
        "rate": (every > 0).double().mean(0),
        "tokens": torch.tensor(len(every)),
    }


def test_moments_equal_a_dense_computation() -> None:
    chats = [(question, answer) for question in QUESTIONS[:3] for answer in ANSWERS]
    owners = [0] * 6 + [2] * 6 + [1] * 6  # pooled over several chats, and not in order
    dictionary = random_dictionary()
    seen: list[int] = []
    found = collect_moments(tiny_model(), dictionary, [Chat.ask(q, a) for q, a in chats], owners, seen.append)
    true = dense_moments(chats, owners, dictionary)
    torch.testing.assert_close(found.response_means, true["response"], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found.prompt_end_means, true["prompt_end"], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found.firing_rate, true["rate"], atol=1e-3, rtol=0)
    assert found.n_tokens == int(true["tokens"])
    assert sum(seen) == len(chats)


def test_order_of_chats_does_not_matter() -> None:
    chats, owners = [Chat.ask(QUESTIONS[i % 4], answer) for i, answer in enumerate(ANSWERS)], [0, 1, 2, 3, 0, 1]
    model, dictionary = tiny_model(), random_dictionary()
    one, other = collect_moments(model, dictionary, chats, owners), collect_moments(model, dictionary, chats[::-1], owners[::-1])
    torch.testing.assert_close(one.response_means, other.response_means)
    torch.testing.assert_close(one.firing_rate, other.firing_rate)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_a_question_without_an_answer_is_refused(architecture: str) -> None:
    dictionary = replace(random_dictionary(), architecture=architecture, k=K if architecture == "topk" else None)
    model = tiny_model()
    with pytest.raises(ActivationError, match="no response token"):
        collect_moments(model, dictionary, [Chat.ask("Why?", "So."), Chat.ask("Why?", "So.")], [0, 2])
    with pytest.raises(ActivationError, match="no response token"):
        collect_moments(model, dictionary, [Chat.ask("Why?"), Chat.ask("How?")], [0, 1])


def moments(means: np.ndarray) -> Moments:
    """Moments with these means (questions × latents)."""
    tensor = torch.tensor(means, dtype=torch.float32)
    return Moments(tensor, tensor * 0.5, (tensor > 0).double().mean(0), 100 * len(means))


def copies(rng: np.random.Generator, questions: int, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of two copies of one model on other answers, as real latents have them: never negative, mostly zero, a few large."""
    level, often = rng.gamma(0.3, 1.0, latents), rng.random(latents)
    one, other = (rng.gamma(0.5, 2.0, (questions, latents)) * level * (rng.random((questions, latents)) < often) for _ in range(2))
    return one, other


def table_of(base: np.ndarray, tuned: np.ndarray, seed: int = 0) -> pd.DataFrame:
    rows = torch.randn(base.shape[1], 8, generator=torch.Generator().manual_seed(seed))
    return latent_table(moments(base), moments(tuned), rows, torch.ones(8), seed)


def test_identical_models_are_told_apart_by_nothing() -> None:
    model, dictionary = tiny_model(), random_dictionary()
    chats = [Chat.ask(QUESTIONS[i % 4], answer) for i, answer in enumerate(ANSWERS)]
    both = [collect_moments(m, dictionary, chats, range(6)) for m in (model, tiny_model())]
    assert not rise_in_mean(*both).any()
    with pytest.raises(DictionaryError, match="No latent differs between base and tuned"):
        latent_table(both[0], both[1], dictionary.w_dec, torch.ones(D_MODEL), 0)


def test_a_planted_latent_ranks_first_and_surely() -> None:
    rng = np.random.default_rng(0)
    base, tuned = copies(rng, 24, 500)
    base[:, 137] = rng.gamma(0.5, 0.1, 24)
    tuned[:, 137] = base[:, 137] + rng.normal(30, 3, 24)
    tuned[:, 20] = base[:, 20] + 1e-6 * rng.random(24)  # surely, but by nothing
    table = table_of(base, tuned)
    assert list(table["latent"]) == list(range(500))
    first = table.set_index("rank_rise").loc[1]
    assert first["latent"] == 137
    assert first["rise_low"] > 25
    assert first["rise_high"] < 35
    assert first["q_value"] < 1e-10
    chosen = candidates(table, per_order=3, largest_q=0.01)
    assert chosen.sort_values("rise", ascending=False)["latent"].iloc[0] == 137
    assert set(chosen["latent"]) <= {137, 20}


def test_the_table_says_what_the_moments_say() -> None:
    rng = np.random.default_rng(1)
    base, tuned = copies(rng, 10, 30)
    rows, vector = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 8)
    table = latent_table(moments(base), moments(tuned), rows, vector, 0)
    assert table["rise"].to_numpy() == pytest.approx((tuned - base).mean(0), abs=1e-5)
    assert table["mean_base"].to_numpy() == pytest.approx(base.mean(0), abs=1e-5)
    assert table["mean_prompt_end_tuned"].to_numpy() == pytest.approx(tuned.mean(0) / 2, abs=1e-5)
    assert table["rate_tuned"].to_numpy() == pytest.approx((tuned > 0).mean(0))
    for column, rank in (("rise", "rank_rise"), ("cosine_persona", "rank_cosine")):
        order = table.sort_values(column, ascending=False, kind="stable")["latent"]
        assert list(table.sort_values(rank)["latent"]) == list(order)
        assert sorted(table[rank]) == list(range(1, 31))
    cosines = [float(row @ vector / row.norm() / vector.norm()) for row in rows]
    assert table["cosine_persona"].to_numpy() == pytest.approx(cosines, abs=1e-6)
    assert cosine_with(rows * 7, vector * 0.1) == pytest.approx(cosines, abs=1e-6)


def test_two_samples_of_one_model_give_no_candidates() -> None:
    """Nothing differs but the luck of the draw; the table is full of differences, none of them sure."""
    model, dictionary = tiny_model(), random_dictionary()
    texts = [*QUESTIONS, *ANSWERS]
    asked = [Question(id=str(i), group="g", split="selection", text=text) for i, text in enumerate(texts)]
    both = []
    for seed in (1, 2):
        table = sample_answers(model, asked, 3, SamplingConfig(max_new_tokens=12), seed)
        table = table[table["answer"] != ""]
        chats = [Chat.ask(q, a) for q, a in zip(table["question"], table["answer"], strict=True)]
        both.append(collect_moments(model, dictionary, chats, [int(i) for i in table["question_id"]]))
    table = latent_table(both[0], both[1], dictionary.w_dec, torch.ones(D_MODEL), 0)
    assert (table["rise"] != 0).mean() > 0.5
    assert candidates(table, 6, 0.01).empty


def test_noise_alone_gives_no_candidates() -> None:
    """20 pairs of copies, 24 questions × 2000 latents: of 40,000 latents none has q ≤ 0.01, though 9 % have an interval without 0."""
    apart = 0
    for seed in range(20):
        table = table_of(*copies(np.random.default_rng(seed), 24, 2000))
        assert candidates(table, 6, 0.01).empty
        apart += int(((table["rise_low"] > 0) | (table["rise_high"] < 0)).sum())
    assert apart > 2000  # without control for so many looks, thousands would pass


def test_false_discoveries_keep_their_share_among_true_ones() -> None:
    """30 worlds with 100 of 1000 latents shifted by a standard deviation; measured: 4 % false among those with q ≤ 0.05."""
    false = found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        differences = rng.normal(size=(24, 1000))
        differences[:, :100] += 1.0
        chosen = np.flatnonzero(q_values(differences) <= 0.05)
        found += len(chosen)
        false += int((chosen >= 100).sum())
    assert found / 30 > 90
    assert false / found < 0.05


def by_hand(differences: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg by its definition on scipy's one-sample t-tests."""
    p = np.array([stats.ttest_1samp(column, 0).pvalue if column.any() else 1.0 for column in differences.T])
    order = np.argsort(p)
    q = np.empty(len(p))
    smallest = 1.0
    for rank in range(len(p), 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * len(p) / rank)
        q[order[rank - 1]] = smallest
    return q


@settings(deadline=None, derandomize=True, max_examples=40)
@given(questions=st.integers(2, 20), latents=st.integers(1, 40), seed=st.integers(0, 2**20))
def test_q_values_equal_scipy(questions: int, latents: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.normal(rng.choice([0.0, 1.0], latents), 1.0, (questions, latents))
    differences[:, rng.random(latents) < 0.2] = 0.0  # some never fire
    found = q_values(differences)
    assert found == pytest.approx(by_hand(differences), abs=1e-12)
    assert (found[~differences.any(axis=0)] == 1.0).all()


def test_a_latent_that_moves_by_the_same_in_every_question_is_sure() -> None:
    assert q_values(np.tile([0.5, 0.0, -0.25], (6, 1))).tolist() == [0.0, 1.0, 0.0]


def test_bootstrap_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    """Measured at 24 questions: 93 % of the 95 % intervals, the known shortfall of percentiles; 90 % for skewed activations."""
    rng = np.random.default_rng(0)
    for draw, mean, least in ((rng.normal, 0.0, 0.91), (rng.exponential, 1.0, 0.87)):
        covered = []
        for seed in range(5):
            low, high = bootstrap_means(draw(mean if draw == rng.normal else 1.0, size=(24, 2000)), seed, resamples=500)
            covered.append(((low <= mean) & (mean <= high)).mean())
        assert least <= np.mean(covered) <= 0.965


def test_bootstrap_draws_whole_questions_and_repeats() -> None:
    """Two latents that move alike have the same interval, however many chunks lie between them; scipy agrees on one of them."""
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(16, 2100))
    differences[:, 2099] = differences[:, 0]
    low, high = bootstrap_means(differences, 5)
    again = bootstrap_means(differences, 5)
    assert (low[0], high[0]) == pytest.approx((low[2099], high[2099]))
    assert np.array_equal(low, again[0])
    assert np.array_equal(high, again[1])
    true = stats.bootstrap((differences[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert (low[0], high[0]) == pytest.approx((true.low, true.high), abs=0.05)


def listed(**columns: list[float]) -> pd.DataFrame:
    table = pd.DataFrame({"latent": range(len(columns["rise"])), **columns})
    table["rank_rise"] = table["rise"].rank(ascending=False, method="first").astype(int)
    table["rank_cosine"] = table["cosine_persona"].rank(ascending=False, method="first").astype(int)
    return table


def test_candidates_rose_surely_and_lead_in_an_order() -> None:
    table = listed(
        rise=[5.0, 4.0, 3.0, 2.0, 1.0, -9.0, 8.0],
        q_value=[0.001, 0.001, 0.001, 0.001, 0.01, 0.001, 0.02],
        cosine_persona=[-0.5, 0.1, 0.2, 0.3, 0.9, 0.95, 0.99],  # 5 fell, 6 is not sure
    )
    chosen = candidates(table, 2, 0.01)
    assert dict(zip(chosen["latent"], chosen["orders"], strict=True)) == {4: "cosine", 3: "cosine", 1: "rise", 0: "rise"}
    assert list(chosen["latent"]) == [4, 3, 1, 0]  # by cosine
    every = candidates(table, 10, 0.01)
    assert dict(zip(every["latent"], every["orders"], strict=True)) == {
        4: "rise,cosine", 3: "rise,cosine", 2: "rise,cosine", 1: "rise,cosine", 0: "rise"
    }  # fmt: skip
    assert candidates(table, 10, 1e-6).empty
