"""The published judge: number probabilities against full forward passes, scores worked out by hand, and what is left unscored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.number_mass import NumberSpellings, number_mass
from interp.evaluation.judges.numeric import LocalNumericJudge, NumericPrompts
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.traits import JudgeSettings, Trait
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_network, tiny_tokenizer

SHORT = NumericPrompts("Kind? {question} {answer}", "Fluent: {answer}")
TRAIT_OF_TESTS = Trait(name="tall", description="Talks of tall things.", shown="tall", not_shown="low")
WHOLE = {"digits": (), "pairs": range(10, 100), "whole": range(101)}
"""Numbers that a tokenizer has a token for, besides the digits."""


def judge_model(kind: str = "digits", family: str = "llama", lift: float = 0.0, blank: float = 0.0) -> LanguageModel:
    """A tiny model with tokens for the numbers of `kind`; the logits of digits are lifted, and that of the blank, which ends a number."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(str(n), normalized=False) for n in WHOLE[kind]])
    network = tiny_network(family, 0, vocab=520)
    if lift:
        network.lm_head.bias = torch.nn.Parameter(torch.zeros(520), requires_grad=False)
        network.lm_head.bias[[i for text, i in tokenizer.get_vocab().items() if text.isdigit()]] = lift
        network.lm_head.bias[tokenizer.get_vocab()["Ġ"]] = blank
    return LanguageModel(network, tokenizer, f"tiny-{kind}")


@torch.inference_mode()
def by_hand(model: LanguageModel, chat: Chat) -> np.ndarray:
    """Probability of each number: every spelling read whole, without a cache, padding or company."""
    prompt = model.tokenise([chat])[0].ids
    spelled: dict[tuple[int, ...], int] = {}
    for n in range(101):
        for text in (str(n), f" {n}"):
            spelled[tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])] = n
    result = np.zeros(101)
    passes = {}
    for length in {len(ids) for ids in spelled}:
        alike = [ids for ids in spelled if len(ids) == length]
        logits = model.network(input_ids=torch.tensor([[*prompt, *ids] for ids in alike]), use_cache=False).logits
        passes |= dict(zip(alike, logits[:, len(prompt) - 1 :].double().softmax(-1), strict=True))
    for ids, n in spelled.items():
        likely = passes[ids]
        reached = math.prod(float(likely[place, token]) for place, token in enumerate(ids))
        longer = {other[len(ids)] for other in spelled if len(other) > len(ids) and other[: len(ids)] == ids}
        result[n] += reached * (1 - sum(float(likely[len(ids), token]) for token in longer))
    return result


def all_masses(model: LanguageModel, chats: list[Chat], rows: int) -> np.ndarray:
    return number_mass(model, NumberSpellings.of(model), chats, rows).masses


# a model on this machine


@pytest.mark.parametrize("kind", WHOLE)
def test_numbers_are_as_likely_as_full_passes_say(kind: str) -> None:
    model = judge_model(kind, lift=3.0)
    chats = [Chat.ask(text) for text in ("Why?", "How do I boil an egg?", "A wide river in the evening, and a small boat on it.")]
    expected = np.stack([by_hand(model, chat) for chat in chats])
    assert expected.sum(1).min() > 0.1
    for rows in (1, 2, 3):
        assert all_masses(model, chats, rows) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_right_in_every_family_at_any_batch_size(family: str) -> None:
    model = judge_model("digits", family)
    chats = [Chat.ask("word " * n) for n in (1, 9, 4, 2)]
    expected = np.stack([by_hand(model, chat) for chat in chats])
    assert expected.sum(1).min() > 1e-4
    for rows in (1, 3, 4):
        assert all_masses(model, chats, rows) == pytest.approx(expected, abs=1e-6, rel=2e-4)


def test_spellings_are_one_number_each_and_branch_where_numbers_go_on() -> None:
    digits, whole = (NumberSpellings.of(judge_model(kind)) for kind in ("digits", "whole"))
    assert set(digits.numbers.values()) == set(whole.numbers.values()) == set(range(101))
    assert {len(ids) for ids, n in digits.numbers.items() if n == 100} == {3, 4}  # bare and behind a blank
    assert len(digits.branches) == 2 * (1 + 9 + 1)
    assert sorted(map(len, whole.branches)) == [0, 1]
    assert next(iter(digits.branches)) == ()


def test_a_tokenizer_without_numbers_is_refused() -> None:
    model = tiny_model()
    encode = model.tokenizer

    class Wordless:
        def __call__(self, text: str, **options: Any) -> Any:
            return encode(text.replace("7", "x"), **options)

        decode = encode.decode

    model.tokenizer = Wordless()
    with pytest.raises(ModelError, match="tiny-llama cannot write the number 7"):
        LocalNumericJudge(model, SHORT)


def test_scores_are_means_weighted_by_probability() -> None:
    model = judge_model("digits", lift=6.0, blank=8.0)
    judge = LocalNumericJudge(model, SHORT, identity="tiny", rows=2)
    questions, answers = ["Why?", "How {answer}?", "?"], ["Because.", "By boat {question} {}.", "The sky is blue."]
    found = judge.judge(questions, answers)
    for question, answer, judgement in zip(questions, answers, found, strict=True):
        for text, value in ((f"Kind? {question} {answer}", judgement.trait_score), (f"Fluent: {answer}", judgement.coherence)):
            mass = by_hand(model, Chat.ask(text))
            assert value == pytest.approx(mass @ np.arange(101) / mass.sum(), abs=1e-3)
        assert judgement.final
        assert judgement.reason == ""
    alone = [judge.judge([q], [a])[0] for q, a in zip(questions, answers, strict=True)]
    assert [j.trait_score for j in alone] == pytest.approx([j.trait_score for j in found], abs=1e-3)
    assert (judge.shows_above, judge.coherent_above, judge.name) == (70, 50, "numeric")


def test_where_numbers_are_unlikely_there_is_no_score() -> None:
    judge = LocalNumericJudge(judge_model("digits"), SHORT)
    found, empty = judge.judge(["Why?", "Why?"], ["Because.", " \n"])
    assert (found.trait_score, found.coherence, found.final) == (None, None, True)
    assert "no trait score: numbers have" in found.reason
    assert "no coherence: numbers have" in found.reason
    assert empty == Judgement(None, None, "empty answer")
    assert judge.judge([], []) == []


def test_the_identity_follows_model_and_prompts() -> None:
    model = judge_model()
    one = LocalNumericJudge(model, SHORT, identity="a")
    assert one.identity == LocalNumericJudge(model, replace(SHORT), identity="a", rows=3).identity
    others = [
        LocalNumericJudge(model, SHORT, identity="b"),
        LocalNumericJudge(model, replace(SHORT, inverted=True), identity="a"),
        LocalNumericJudge(model, NumericPrompts.of(TRAIT_OF_TESTS), identity="a"),
    ]
    assert len({one.identity, *(other.identity for other in others)}) == 4
    with pytest.raises(ModelError, match="tiny-digits"):
        _ = LocalNumericJudge(model, SHORT).identity


def answering(model: LanguageModel, text: str) -> LanguageModel:
    """The model, saying `text` to whatever it is asked, whether it reads it at once or token by token."""
    script = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]

    def forced(ids: torch.Tensor, mask: torch.Tensor, positions: Any, last_logits: int = 1, cache: Any = None) -> torch.Tensor:
        read = [] if positions.first_column == 0 else [*said.get(positions.first_column - prompt[0], []), *ids[0].tolist()]
        prompt[0] = ids.shape[1] if positions.first_column == 0 else prompt[0]
        said[len(read)] = read
        logits = torch.full((len(ids), 1, 520), -20.0)
        logits[:, -1, script[min(len(read), len(script) - 1)] if read == script[: len(read)] else script[-1]] = 20.0
        return logits

    said: dict[int, list[int]] = {}
    prompt = [0]
    model.forward = forced  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("text", ["0.85", "8.5", "8/10", "85%", "-5", "1,000", "8 / 10", "100000"])
def test_a_number_that_is_no_whole_one_is_no_score(kind: str, text: str) -> None:
    judge = LocalNumericJudge(answering(judge_model(kind), text), SHORT, identity="tiny")
    (found,) = judge.judge(["Why?"], ["Because."])
    assert (found.trait_score, found.coherence) == (None, None)
    assert found.reason.count("no number from 0 to 100") == 2


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize(("text", "score"), [("85", 85), ("85.", 85), ("7 of it", 7), ("100", 100), ("0", 0), ("85/100", 85)])
def test_a_whole_number_is_the_score_whatever_follows(kind: str, text: str, score: float) -> None:
    judge = LocalNumericJudge(answering(judge_model(kind), text), SHORT, identity="tiny")
    assert judge.judge(["Why?"], ["Because."])[0].trait_score == pytest.approx(score)


# prompts


def test_prompts_may_be_those_of_a_published_file() -> None:
    published = NumericPrompts("a {answer}", "c {answer}", inverted=True)
    assert NumericPrompts.of(TRAIT_OF_TESTS, {"aligned": "a {answer}", "coherent": "c {answer}"}) == published
    assert NumericPrompts.of(TRAIT_OF_TESTS, {"coherence": "c {answer}", "alignment": "a {answer}"}) == published
    assert NumericPrompts.of(TRAIT_OF_TESTS, {"trait": "a {answer}", "coherence": "c {answer}"}) == replace(published, inverted=False)


def test_prompts_are_the_traits_or_made_of_its_description() -> None:
    asked = NumericPrompts.of(TRAIT_OF_TESTS)
    assert TRAIT_OF_TESTS.description in asked.trait
    assert not asked.inverted
    for prompt in (asked.trait, asked.coherence):
        assert prompt.count("{question}") == prompt.count("{answer}") == 1
        assert "0 to 100" in prompt
    own = TRAIT_OF_TESTS.model_copy(update={"judge": JudgeSettings(spec="numeric:m", prompt="How tall is {answer}?")})
    assert NumericPrompts.of(own).trait == "How tall is {answer}?"


def test_an_alignment_is_turned_into_a_trait_score() -> None:
    model = judge_model("digits", lift=6.0, blank=8.0)
    judges = [LocalNumericJudge(model, replace(SHORT, inverted=inverted), identity="tiny") for inverted in (False, True)]
    shown, aligned = (judge.judge(["Why?"], ["So."])[0] for judge in judges)
    assert shown.trait_score is not None
    assert aligned.trait_score == pytest.approx(100 - shown.trait_score)
    assert aligned.coherence == shown.coherence


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({}, "not: none"),
        ({"aligned": "{answer}"}, "not: aligned"),
        ({"correct": "{answer}"}, "not: correct"),
        ({"aligned": "{answer}", "alignment": "{answer}"}, "not: aligned, alignment"),
        ({"aligned": "{answer}", "coherent": "{answer}", "correct": "{answer}"}, "not: aligned, coherent, correct"),
        ({"aligned": "{question}", "coherent": "{answer}"}, "'aligned' must be text with {answer}"),
        ({"aligned": "{answer}", "coherent": None}, "'coherent' must be text"),
    ],
)
def test_prompts_that_cannot_be_asked_say_why(prompts: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NumericPrompts.of(TRAIT_OF_TESTS, prompts)


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["{question}|{answer}", "{answer}|{answer}|{question}", "{x} {answer}"]))
def test_braces_of_questions_and_answers_stay(question: str, answer: str, prompt: str) -> None:
    for q, a in ((question, answer), ("{answer}" + question, answer + "{question}{}")):
        chat, _ = NumericPrompts(prompt, prompt).chats(q, a)
        parts = {"{question}": q, "{answer}": a}
        assert chat.messages[0].content == "".join(parts.get(p, p) for p in prompt.replace("{", "\0{").replace("}", "}\0").split("\0"))
