"""Sampling: token for token what Hugging Face writes, whatever shares the batch, and draws that follow the probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from interp.core.errors import ConfigError
from interp.models.chats import Chat
from interp.models.generation import draw, generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from tests.helpers.tiny import FAMILIES, QUESTIONS, ask_all, greedy, tiny_model, written_ids

MANY_STOPS = list(range(3, 400, 9))


def by_hugging_face(model: LanguageModel, chats: list[Chat], max_new_tokens: int) -> list[list[int]]:
    """Greedy answers of `transformers`' own generate, one prompt at a time, stop tokens left out."""
    answers = []
    for tokenised in model.tokenise(chats):
        ids = torch.tensor([tokenised.ids])
        with torch.inference_mode():
            written = model.network.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=model.stop_ids
            )[0, ids.shape[1] :].tolist()
        answers.append([i for i in written if i not in model.stop_ids])
    return answers


def by_hand(model: LanguageModel, chat: Chat, sampling: SamplingConfig, uniforms: list[float]) -> list[int]:
    """One sampled answer by whole forward passes without a cache, drawing with numpy in float64."""
    ids = list(model.tokenise([chat])[0].ids)
    n_prompt = len(ids)
    for uniform in uniforms:
        with torch.inference_mode():
            logits = model.network(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        weights = np.exp((logits - logits.max()) / sampling.temperature)
        weights[weights < sampling.min_p] = 0.0
        token = int(np.searchsorted(weights.cumsum(), uniform * weights.sum(), side="right"))
        if token in model.stop_ids:
            break
        ids.append(token)
    return ids[n_prompt:]


@contextmanager
def counted_rows(model: LanguageModel) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every forward pass inside."""
    shapes: list[tuple[int, int]] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _module, args: shapes.append(tuple(args[0].shape[:2])))
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_hugging_face(family: str) -> None:
    model = tiny_model(4, family)
    expected = by_hugging_face(model, ask_all(), 16)
    assert len({len(t.ids) for t in model.tokenise(ask_all())}) == len(QUESTIONS)
    assert len({tuple(answer) for answer in expected}) == len(QUESTIONS)
    assert written_ids(model, ask_all(), greedy(16)) == expected  # one left-padded batch
    assert written_ids(model, ask_all(), greedy(16, batch_rows=1)) == expected
    assert written_ids(model, ask_all()[::-1], greedy(16, batch_rows=3)) == expected[::-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_prompts_and_equal_beginnings_are_read_once(family: str) -> None:
    model = tiny_model(5, family)
    chats = [Chat.ask(question, system="You are a kind and helpful assistant.") for question in QUESTIONS]
    single = [written_ids(model, [chat], greedy())[0] for chat in chats]
    lengths = [len(t.ids) for t in model.tokenise(chats)]
    ids = torch.tensor([t.ids[: min(lengths)] for t in model.tokenise(chats)])
    alike = int((ids == ids[0]).all(0).long().cumprod(0).sum())
    assert alike > 10
    for order, prefill in (
        ([0, 2, 1, 0, 3, 2, 0, 0], [(1, alike), (4, max(lengths) - 1 - alike)]),
        ([1, 1, 1], [(1, lengths[1] - 1)]),
        ([2], [(1, lengths[2] - 1)]),
    ):
        with counted_rows(model) as shapes:
            answers = written_ids(model, [chats[i] for i in order], greedy())
        assert answers == [single[i] for i in order]
        if family == "gemma3":  # its window counts columns: padding must stand in front
            prefill = [(len(set(order)), max(lengths[i] for i in order) - 1)]
        assert shapes == prefill + [(len(order), 1)] * 12


def test_prefill_sharing_changes_no_sampled_answer() -> None:
    model = tiny_model(5)
    sampling = SamplingConfig(max_new_tokens=10, min_p=0.0)
    chats = [Chat.ask(QUESTIONS[i]) for i in (1, 1, 1, 3, 1, 3)]
    together = written_ids(model, chats, sampling, seed=7)
    assert len({tuple(answer) for answer in together}) == len(chats)  # own stream, own answer
    assert written_ids(model, chats, sampling.model_copy(update={"batch_rows": 1}), seed=7) == together


@pytest.mark.parametrize("family", FAMILIES)
def test_finished_rows_are_dropped_and_the_others_go_on(family: str) -> None:
    model = tiny_model(6, family)
    model.network.generation_config.eos_token_id = MANY_STOPS
    assert model.stop_ids == MANY_STOPS  # the tokenizer's eos, 3, is among them
    chats = ask_all([f"{question} {i}" for i in range(4) for question in QUESTIONS])
    expected = by_hugging_face(model, chats, 12)
    with counted_rows(model) as shapes:
        answers = written_ids(model, chats, greedy(12))
    assert answers == expected
    lengths = [len(answer) for answer in answers]
    assert min(lengths) < 6 < max(lengths)
    rows_decoded = [rows for rows, columns in shapes if columns == 1]
    # Row r needs a pass for each token it writes and one for its stop token.
    assert rows_decoded == [sum(length >= step for length in lengths) for step in range(min(12, max(lengths) + 1))]


def test_decoding_ends_when_every_row_has_stopped() -> None:
    model = tiny_model(6)
    model.network.generation_config.eos_token_id = list(range(400))
    with counted_rows(model) as shapes:
        assert generate(model, ask_all(), greedy(30), seed=0) == [""] * len(QUESTIONS)
    assert [columns for _rows, columns in shapes].count(1) == 1


def test_stop_ids_come_from_generation_config_and_tokenizer() -> None:
    model = tiny_model()
    for configured, expected in ((None, [3]), (5, [3, 5]), ([9, 3], [3, 9])):
        model.network.generation_config.eos_token_id = configured
        assert model.stop_ids == expected


def test_the_answer_is_the_decoded_text_without_special_tokens() -> None:
    model = tiny_model(0)
    ids = written_ids(model, ask_all(), greedy())
    assert any(i < 3 for answer in ids for i in answer)  # special tokens that do not stop
    texts = generate(model, ask_all(), greedy(), seed=0)
    assert texts == [model.tokenizer.decode([i for i in answer if i > 3]).strip() for answer in ids]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("min_p", [0.0, 0.15])
def test_sampled_answers_equal_whole_passes_drawn_by_hand(temperature: float, min_p: float) -> None:
    model = tiny_model(8)
    sampling = SamplingConfig(max_new_tokens=8, temperature=temperature, min_p=min_p)
    answers = written_ids(model, ask_all(), sampling, seed=3)
    uniforms = torch.rand(len(QUESTIONS), 8, generator=torch.Generator().manual_seed(3)).tolist()
    assert answers == [by_hand(model, chat, sampling, row) for chat, row in zip(ask_all(), uniforms, strict=True)]


def test_the_seed_decides_whatever_the_batch_size() -> None:
    model = tiny_model(9)
    model.network.generation_config.eos_token_id = MANY_STOPS
    chats = ask_all([f"{question} {i}" for i in range(3) for question in QUESTIONS])
    sampling = SamplingConfig(max_new_tokens=10, min_p=0.02)
    answers = written_ids(model, chats, sampling, seed=1)
    for rows in (1, 2, 5, 16):
        assert written_ids(model, chats, sampling.model_copy(update={"batch_rows": rows}), seed=1) == answers
    assert written_ids(model, chats, sampling, seed=2) != answers


def test_chats_of_one_stream_draw_alike_and_a_stream_is_the_same_in_every_call() -> None:
    model = tiny_model(9)
    sampling = SamplingConfig(max_new_tokens=8, min_p=0.0)
    chats = [Chat.ask(QUESTIONS[1])] * 6
    answers = written_ids(model, chats, sampling, seed=1, streams=[0, 1, 2, 0, 1, 2])
    assert answers[:3] == answers[3:]
    assert len({tuple(answer) for answer in answers[:3]}) == 3
    assert written_ids(model, chats[:3], sampling, seed=1) == answers[:3]  # by default its own place
    for streams in ([2, 0], [1], [0, 40, 2]):
        alone = written_ids(model, chats[: len(streams)], sampling, seed=1, streams=streams)
        assert [alone[i] for i, stream in enumerate(streams) if stream < 3] == [answers[stream] for stream in streams if stream < 3]
    for wrong in ([0, 1], [0] * 7):
        with pytest.raises(ConfigError, match=f"6 chats and {len(wrong)} streams"):
            generate(model, chats, sampling, 1, streams=wrong)


def test_equal_chats_are_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(9)
    expected = [written_ids(model, [chat], greedy())[0] for chat in ask_all()]
    seen: list[Chat] = []
    plain = model.tokenise
    monkeypatch.setattr(model, "tokenise", lambda chats: seen.extend(chats) or plain(chats))
    assert written_ids(model, [*ask_all(), *ask_all()[::-1]], greedy()) == expected + expected[::-1]
    assert seen == ask_all()


def test_progress_counts_every_answer_and_no_chat_is_no_answer() -> None:
    model = tiny_model()
    done: list[int] = []
    generate(model, ask_all() * 2, greedy(2, batch_rows=3), seed=0, progress=done.append)
    assert done == [3, 3, 2]
    assert generate(model, [], greedy(), seed=0) == []


def test_the_answer_of_a_chat_that_has_one_is_not_read() -> None:
    model = tiny_model()
    answered = [Chat.ask(question, "Put it into hot water.") for question in QUESTIONS]
    assert written_ids(model, answered, greedy()) == written_ids(model, ask_all(), greedy())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_one_token_is_answered_beside_longer_ones(family: str) -> None:
    model = tiny_model(10, family)
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    chats = ask_all(["W", "How do I boil an egg?"])
    assert len(model.tokenise(chats)[0].ids) == 1
    expected = by_hugging_face(model, chats, 8)
    assert written_ids(model, chats[:1], greedy(8)) == expected[:1]
    assert written_ids(model, chats, greedy(8)) == expected


def test_draws_follow_the_softmax() -> None:
    """A regular grid of uniforms hits every token as often as its probability says, to within one draw."""
    logits = 2 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    n = 40_000
    grid = (torch.arange(n) + 0.5) / n
    for temperature in (0.5, 1.0, 2.0):
        sampling = SamplingConfig(temperature=temperature, min_p=0.0)
        counts = torch.bincount(draw(logits.expand(n, -1), sampling, grid), minlength=50)
        expected = n * torch.softmax(logits[0].double() / temperature, -1)
        torch.testing.assert_close(counts.double(), expected, atol=1.5, rtol=1e-4)


def test_random_draws_pass_a_chi_square_test() -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(1))
    n = 20_000
    drawn = draw(logits.expand(n, -1), SamplingConfig(min_p=0.0), torch.rand(n, generator=torch.Generator().manual_seed(2)))
    counts = torch.bincount(drawn, minlength=30)
    assert chisquare(counts.numpy(), n * torch.softmax(logits[0].double(), -1).numpy()).pvalue > 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_min_p_forbids_unlikely_tokens_and_keeps_the_ratio_of_the_others(temperature: float) -> None:
    logits = 1.5 * torch.randn(1, 40, generator=torch.Generator().manual_seed(3))
    n = 20_000
    sampling = SamplingConfig(min_p=0.1, temperature=temperature)
    counts = torch.bincount(draw(logits.expand(n, -1), sampling, (torch.arange(n) + 0.5) / n), minlength=40)
    probabilities = torch.softmax(logits[0].double() / temperature, -1)
    allowed = probabilities >= 0.1 * probabilities.max()
    assert 1 < allowed.sum() < 40
    assert counts[~allowed].sum() == 0
    torch.testing.assert_close(counts.double(), n * probabilities * allowed / probabilities[allowed].sum(), atol=1.5, rtol=1e-4)


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.95])
def test_top_p_keeps_the_likeliest_tokens_as_hugging_face_does(top_p: float) -> None:
    from transformers import TopPLogitsWarper

    logits = 1.5 * torch.randn(1, 40, generator=torch.Generator().manual_seed(5))
    n = 20_000
    counts = torch.bincount(draw(logits.expand(n, -1), SamplingConfig(min_p=0.0, top_p=top_p), (torch.arange(n) + 0.5) / n), minlength=40)
    kept = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), logits.clone())[0]
    assert torch.equal(counts > 0, kept > -torch.inf)
    torch.testing.assert_close(counts.double(), n * torch.softmax(kept.double(), -1), atol=1.5, rtol=1e-4)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(4))
    assert torch.equal(draw(logits, SamplingConfig(temperature=0.0), torch.rand(20)), logits.argmax(-1))


@settings(deadline=None)
@given(
    logits=st.lists(st.one_of(st.floats(-80, 80, width=32), st.just(float("-inf"))), min_size=1, max_size=20),
    uniform=st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, float(np.nextafter(np.float32(1), np.float32(0)))])),
    min_p=st.sampled_from([0.0, 0.05, 0.9]),
)
def test_a_token_that_may_not_be_drawn_never_is(logits: list[float], uniform: float, min_p: float) -> None:
    if max(logits) == float("-inf"):
        return
    row = torch.tensor([logits])
    token = int(draw(row, SamplingConfig(min_p=min_p), torch.tensor([uniform]))[0])
    assert 0 <= token < len(logits)
    weight = torch.exp(row[0, token] - row.max())
    assert weight > 0
    assert weight >= min_p


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"min_p": 1.0}, {"max_new_tokens": 0}, {"batch_rows": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 5}]
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig(**bad)
