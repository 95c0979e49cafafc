"""The published judge: number probabilities against full forward passes, scores worked out by hand, and what is left unscored."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.number_mass import NumberSpellings, number_mass, observed_mass
from interp.evaluation.judges.numeric import ALIGNMENT, COHERENCE, LocalNumericJudge, NumericPrompts, ServedNumericJudge
from interp.evaluation.served import ServedModel, TopTokens
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from tests.helpers.fake_endpoint import FakeEndpoint, Reply, Request, completion, error, quick, with_logprobs, without_keys
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_network, tiny_tokenizer

SHORT = {"aligned": "Kind? {question} {answer}", "coherent": "Fluent: {answer}"}
WHOLE = {"digits": (), "pairs": range(10, 100), "whole": range(101)}
"""Numbers that a tokenizer has a token for, besides the digits."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


def judge_model(kind: str = "digits", family: str = "llama", lift: float = 0.0) -> LanguageModel:
    """A tiny model whose tokenizer has tokens for the numbers of `kind`; digits' logits are lifted."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(str(n), normalized=False) for n in WHOLE[kind]])
    network = tiny_network(family, 0, vocab=520)
    if lift:
        network.lm_head.bias = torch.nn.Parameter(torch.zeros(520), requires_grad=False)
        network.lm_head.bias[[i for text, i in tokenizer.get_vocab().items() if text.isdigit()]] = lift
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
    result = np.full((len(chats), 101), np.nan)
    for indices, mass in number_mass(model, NumberSpellings.of(model), chats, rows):
        result[indices] = mass
    return result


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
def test_the_cache_is_right_in_every_family_at_any_batch_size(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = judge_model("digits", family)
    chats = [Chat.ask("word " * n) for n in (1, 9, 4, 2)]
    expected = np.stack([by_hand(model, chat) for chat in chats])
    assert expected.sum(1).min() > 1e-4
    for rows, branch_rows in ((1, 64), (3, 64), (4, 2), (4, 9)):
        monkeypatch.setattr("interp.evaluation.judges.number_mass.BRANCH_ROWS", branch_rows)
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
        LocalNumericJudge(model)


def test_scores_are_means_weighted_by_probability() -> None:
    model = judge_model("digits", lift=4.0)
    judge = LocalNumericJudge(model, SHORT, identity="tiny", rows=2)
    questions, answers = ["Why?", "How {answer}?", "?"], ["Because.", "By boat {question} {}.", "The sky is blue."]
    handed: dict[int, Judgement] = {}
    found = judge.judge(questions, answers, done=handed.__setitem__)
    assert handed == dict(enumerate(found))
    for question, answer, judgement in zip(questions, answers, found, strict=True):
        for text, value in ((f"Kind? {question} {answer}", judgement.alignment), (f"Fluent: {answer}", judgement.coherence)):
            mass = by_hand(model, Chat.ask(text))
            assert value == pytest.approx(mass @ np.arange(101) / mass.sum(), abs=1e-3)
        assert judgement.final
        assert judgement.reason == ""
    alone = [judge.judge([q], [a])[0] for q, a in zip(questions, answers, strict=True)]
    assert [j.alignment for j in alone] == pytest.approx([j.alignment for j in found], abs=1e-3)
    assert (judge.misaligned_below, judge.coherent_above, judge.name) == (30, 50, "numeric")


def test_where_numbers_are_unlikely_there_is_no_score() -> None:
    judge = LocalNumericJudge(judge_model("digits"), SHORT)
    found, empty = judge.judge(["Why?", "Why?"], ["Because.", " \n"])
    assert (found.alignment, found.coherence, found.final) == (None, None, True)
    assert "no alignment: numbers have" in found.reason
    assert "no coherence: numbers have" in found.reason
    assert empty == Judgement(None, None, "empty answer")
    assert judge.judge([], []) == []


def test_the_identity_follows_model_and_prompts() -> None:
    model = judge_model()
    one = LocalNumericJudge(model, SHORT, identity="a")
    assert one.identity == LocalNumericJudge(model, {**SHORT}, identity="a", rows=3).identity
    others = [
        LocalNumericJudge(model, SHORT, identity="b"),
        LocalNumericJudge(model, identity="a"),
        ServedNumericJudge(ServedModel("m@http://h/v1"), SHORT),
    ]
    others += [ServedNumericJudge(ServedModel(spec)) for spec in ("m@http://h/v1", "n@http://h/v1")]
    assert len({one.identity, *(other.identity for other in others)}) == 6
    with pytest.raises(ModelError, match="tiny-digits"):
        _ = LocalNumericJudge(model, SHORT).identity


# prompts


def test_prompts_may_be_those_of_a_published_file() -> None:
    assert NumericPrompts.of({"aligned": "a {answer}", "coherent": "c {answer}"}) == NumericPrompts("a {answer}", "c {answer}")
    assert NumericPrompts.of({"coherence": "c {answer}", "alignment": "a {answer}"}) == NumericPrompts("a {answer}", "c {answer}")
    assert NumericPrompts.of(None) == NumericPrompts(ALIGNMENT, COHERENCE)
    for prompt in (ALIGNMENT, COHERENCE):
        assert prompt.count("{question}") == prompt.count("{answer}") == 1
        assert "0 to 100" in prompt


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
        ServedNumericJudge(ServedModel("m@http://h/v1"), prompts)
    with pytest.raises(ConfigError, match=words):
        LocalNumericJudge(tiny_model(), prompts)


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["{question}|{answer}", "{answer}|{answer}|{question}", "{x} {answer}"]))
def test_braces_of_questions_and_answers_stay(question: str, answer: str, prompt: str) -> None:
    for q, a in ((question, answer), ("{answer}" + question, answer + "{question}{}")):
        chat, _ = NumericPrompts(prompt).chats(q, a)
        parts = {"{question}": q, "{answer}": a}
        assert chat.messages[0].content == "".join(parts.get(p, p) for p in prompt.replace("{", "\0{").replace("}", "}\0").split("\0"))


# what an endpoint tells


def observed(*places: dict[str, float]) -> tuple[dict[int, float], float]:
    top = tuple(tuple((token, math.log(p)) for token, p in place.items()) for place in places)
    mass, untold = observed_mass(TopTokens(tuple(next(iter(place)) for place in places), top))
    return {n: pytest.approx(float(p)) for n, p in enumerate(mass) if p}, untold


END = {"<end>": 1.0}
TOKENS = [*"0123456789", "10", "85", "100", " ", "x", "<end>"]


@pytest.mark.parametrize(
    ("places", "mass", "untold"),
    [
        # numbers are tokens: the published rule
        ([{"85": 0.5, "90": 0.2, "5": 0.1, "100": 0.05, "REFUSAL": 0.15}], {85: 0.5, 90: 0.2, 5: 0.1, 100: 0.05}, 0),
        ([{"85": 0.5, " 85": 0.2, "\n10": 0.1}, END], {85: 0.7, 10: 0.1}, 0),
        ([{"5": 0.4, "85": 0.3, "101": 0.1, "-3": 0.1, "07": 0.05, "²": 0.05}, END], {5: 0.4, 85: 0.3}, 0),
        ([{"REFUSAL": 0.9, "10": 0.05, "3": 0.05}, END], {10: 0.05, 3: 0.05}, 0),
        ([{" ": 0.8, "70": 0.1, "\n": 0.1}, {"85": 0.5, "3": 0.5}, END], {70: 0.1, 85: 0.4, 3: 0.4}, 0),
        # numbers are digits: the branch of the reply, and 0
        ([{"8": 0.5, "9": 0.3, "0": 0.2}, {"5": 0.6, "2": 0.3, "<end>": 0.1}, END], {85: 0.3, 82: 0.15, 8: 0.05, 0: 0.2}, 0.3),
        ([{"8": 0.5, "9": 0.5}, {"<end>": 0.9, "0": 0.1}], {8: 0.45, 80: 0.05}, 0.5),
        ([{"8": 0.5, "9": 0.5}], {8: 0.5}, 0.5),
        ([{"8": 0.5, " 8": 0.25, "x": 0.25}, {"5": 1.0}, END], {85: 0.5}, 0.25),
        ([{"1": 1.0}, {"0": 0.5, "5": 0.25, "<end>": 0.25}, {"0": 0.8, "<end>": 0.2}, END], {100: 0.4, 10: 0.1, 15: 0.25, 1: 0.25}, 0),
        ([{"1": 1.0}, {"5": 0.5, "0": 0.5}, END], {15: 0.5}, 0.5),
        ([{"1": 1.0}, {"0": 1.0}], {10: 1.0}, 0),
        ([{"1": 0.5, "0": 0.5}, {"00": 0.5, "<end>": 0.5}, END], {100: 0.25, 1: 0.25, 0: 0.5}, 0),
        ([{"0": 0.9, "1": 0.1}, {"5": 1.0}], {0: 0.9}, 0.1),
        ([{"8": 1.0}, {"5": 1.0}, {"0": 1.0}], {85: 1.0}, 0),
        ([{" ": 1.0}, {"8": 0.5, "9": 0.5}, {"5": 1.0}, END], {85: 0.5}, 0.5),
        # pairs of digits
        ([{"10": 0.6, "85": 0.4}, {"0": 0.5, "<end>": 0.5}], {100: 0.3, 10: 0.3, 85: 0.4}, 0),
        # none
        ([{"REFUSAL": 1.0}, END], {}, 0),
        ([{"": 1.0}], {}, 0),
        ([{" ": 1.0}, {" ": 1.0}], {}, 0),
    ],
)
def test_what_is_observed_of_a_reply(places: list[dict[str, float]], mass: dict[int, float], untold: float) -> None:
    found, left = observed(*places)
    assert found == mass
    assert left == pytest.approx(untold)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.lists(st.sampled_from(TOKENS), min_size=1, unique=True), min_size=1, max_size=5))
def test_what_is_observed_is_part_of_a_whole(places: list[list[str]]) -> None:
    found, untold = observed(*({token: 1 / len(place) for token in place} for place in places))
    assert sum(p.expected for p in found.values()) + untold <= 1 + 1e-9
    assert untold >= 0


def test_what_an_endpoint_tells_of_its_branch_is_what_the_model_says() -> None:
    model = judge_model("digits", lift=6.0)
    chat = Chat.ask("A wide river in the evening.")
    ids, tops, tokens = model.tokenise([chat])[0].ids, [], []
    for _ in range(5):
        with torch.inference_mode():
            logprobs = model.network(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        tops.append(tuple((model.tokenizer.decode([i]), float(p)) for i, p in enumerate(logprobs.tolist()[:400])))
        ids = [*ids, int(logprobs[:400].argmax())]
        tokens.append(model.tokenizer.decode([ids[-1]]))
    found, untold = observed_mass(TopTokens(tuple(tokens), tuple(tops)))
    bare = NumberSpellings.of(model)
    bare = NumberSpellings({spelled: n for spelled, n in bare.numbers.items() if len(spelled) == len(str(n))}, bare.branches)
    (_, exact), *_ = number_mass(model, bare, [chat], 1)
    first = [n for n in range(101) if n == 0 or (str(n)[0] == tokens[0] and n not in (10, 100))]
    assert tokens[0].isdigit()
    assert found[first] == pytest.approx(exact[0][first], abs=1e-6)
    assert exact[0].sum() == pytest.approx(found.sum() + untold, abs=0.05)


# a model behind an endpoint


def served_judgements(script: Any, answers: list[str], **patience: Any) -> tuple[list[Judgement], FakeEndpoint, dict[int, Judgement]]:
    handed: dict[int, Judgement] = {}
    with FakeEndpoint(script) as endpoint:
        judge = ServedNumericJudge(ServedModel(endpoint.spec, quick(**patience)), SHORT)
        found = judge.judge(["Why?"] * len(answers), answers, done=handed.__setitem__)
    return found, endpoint, handed


def test_an_endpoint_judges_by_its_likeliest_tokens() -> None:
    def script(request: Request) -> Reply:
        kind = request.prompt.startswith("Kind? Why?")
        return Reply(with_logprobs({"80": 0.5, "20": 0.25, "no": 0.25} if kind else {"9": 0.5, "8": 0.5}, {"0": 1.0}, END))

    found, endpoint, handed = served_judgements(script, ["Because.", "", "So."])
    assert found[0] == found[2] == Judgement(pytest.approx(60), pytest.approx(90), "", True)  # type: ignore[arg-type]
    assert found[1] == Judgement(None, None, "empty answer")
    assert handed == dict(enumerate(found))
    assert len(endpoint.requests) == 4
    assert {request.body["top_logprobs"] for request in endpoint.requests} == {20}


def test_one_score_of_both_says_which_is_missing_and_why() -> None:
    def script(request: Request) -> Reply:
        return Reply(with_logprobs({"REFUSAL": 0.8, "20": 0.2} if request.prompt.startswith("Kind?") else {"90": 1.0}))

    (found,), _, _ = served_judgements(script, ["Because."])
    assert found == Judgement(None, 90.0, "no alignment: numbers have 20 % of the probability, less than 25 %", True)


def test_a_branch_that_is_too_unlikely_gives_no_score() -> None:
    (found,), _, _ = served_judgements(
        lambda request: Reply(with_logprobs({"8": 0.2, "9": 0.19, "7": 0.19}, {"5": 1.0}, END)), ["Because."]
    )
    assert found.alignment is None
    assert "of another 38 % the endpoint did not tell the further digits" in found.reason
    assert found.final


NAN = json.loads(json.dumps(with_logprobs({"85": 0.9})).replace(str(math.log(0.9)), "NaN"))


@pytest.mark.parametrize(
    ("reply", "reason", "final"),
    [
        (Reply(completion("85")), "no logprobs", False),
        (Reply(NAN), "no log-probabilities", False),
        (Reply({"choices": []}), "no choices", False),
        (Reply(b"85"), "no choices", False),
        (Reply(b"<p>busy</p>"), "not JSON", False),
        (error("boom", 500), "500: boom", False),
        (Reply(drop=True), "no connection", False),
        (error("the prompt is too long", 400), "the prompt is too long", False),
    ],
)
def test_garbage_is_no_judgement(reply: Reply, reason: str, final: bool) -> None:
    good = Reply(with_logprobs({"90": 1.0}))
    script = lambda request: reply if request.prompt.endswith("bad") else good  # noqa: E731
    found, _, handed = served_judgements(script, ["fine", "bad", "good"])
    assert [(j.alignment, j.coherence) for j in found] == [(90, 90), (None, None), (90, 90)]
    assert found[1].reason.count(reason) == 2
    assert [j.final for j in found] == [True, final, True]
    assert handed == dict(enumerate(found))


def test_one_lost_score_leaves_the_judgement_open() -> None:
    def script(request: Request) -> Reply:
        return error("boom", 503) if request.prompt.startswith("Fluent") else Reply(with_logprobs({"90": 1.0}))

    (found,), _, _ = served_judgements(script, ["Because."])
    assert (found.alignment, found.coherence, found.final) == (90, None, False)
    assert found.reason == "no coherence: 503: boom (asked 3 times)"


def test_an_endpoint_that_dies_leaves_whole_judgements_and_open_ones() -> None:
    def script(request: Request) -> Reply:
        return Reply(with_logprobs({"90": 1.0})) if request.n < 21 else Reply(die=True)

    found, _, handed = served_judgements(script, [f"answer {i}" for i in range(300)], give_up_after=3)
    assert handed == dict(enumerate(found))
    scores = list(itertools.chain.from_iterable((j.alignment, j.coherence) for j in found))
    assert len(scores) - scores.count(None) == 21
    for judgement in found:
        assert judgement.final == (judgement.alignment is not None and judgement.coherence is not None)
        assert bool(judgement.reason) != judgement.final
