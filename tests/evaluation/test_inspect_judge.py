"""The judge through Inspect: what it reads from a reply, what it does with a call that fails, and what it never shows."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, Logprob, Logprobs, ModelOutput, ModelUsage, TopLogprob

import interp.inspect.provider
from interp.core.errors import ConfigError, ModelError
from interp.evaluation.judges import inspect_judge
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.inspect_judge import InspectJudge, read_score
from tests.helpers.tiny import tiny_folder

assert interp.inspect.provider
PROMPTS = {"aligned": "ALIGNED? {question} {answer}", "coherent": "COHERENT? {question} {answer}"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))


def saying(text: str) -> ModelOutput:
    """With its usage: mockllm would fetch a tokenizer to count."""
    return ModelOutput.from_content("mock", text).model_copy(update={"usage": ModelUsage()})


def replying(reply: Callable[[str], Any], **settings: Any) -> tuple[InspectJudge, list[str]]:
    """A judge whose model says `reply(prompt)`, and what it was asked so far."""
    asked: list[str] = []

    async def answer(messages: list[Any], tools: Any, choice: Any, config: Any) -> ModelOutput:
        asked.append(messages[-1].text)
        await asyncio.sleep(0.01)
        said = reply(messages[-1].text)
        if isinstance(said, Exception):
            raise said
        return saying(said)

    return InspectJudge("mockllm/model", PROMPTS, model_args={"custom_outputs": answer}, **settings), asked


def told(said: str, *places: dict[str, float], stop: Any = "stop") -> ModelOutput:
    """A reply with probabilities of the likeliest tokens; the first of each place is its own."""
    content = []
    for place in places:
        top = [TopLogprob(token=token, logprob=math.log(p)) for token, p in place.items()]
        content.append(Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top))
    message = ChatMessageAssistant(content=said)
    return ModelOutput(
        choices=[ChatCompletionChoice(message=message, stop_reason=stop, logprobs=Logprobs(content=content) if content else None)]
    )


def test_both_questions_are_asked_of_every_answer_and_equal_ones_once() -> None:
    judge, asked = replying(lambda text: "90" if text.startswith("COHERENT") else "10" if "bad" in text else "80")
    kept: list[tuple[int, Judgement, int]] = []
    answers = ["good", " ", "bad", "good"]
    judgements = judge.judge(["q"] * 4, answers, lambda place, made: kept.append((place, made, threading.get_ident())))
    assert judgements == [Judgement(80, 90), Judgement(None, None, "empty answer"), Judgement(10, 90), Judgement(80, 90)]
    assert sorted(asked) == ["ALIGNED? q bad", "ALIGNED? q good", "COHERENT? q bad", "COHERENT? q good"]
    assert [made for _, made, _ in sorted(kept, key=lambda entry: entry[0])] == judgements
    assert {thread for _, _, thread in kept} == {threading.get_ident()}
    assert judge.judge([], []) == []


def test_replies_are_kept_by_inspect_unless_told_otherwise() -> None:
    judge, asked = replying(lambda text: "50")
    assert judge.judge(["q"], ["a"]) == judge.judge(["q"], ["a"])
    assert len(asked) == 2
    other, asked = replying(lambda text: "60", cache=False)
    assert other.judge(["q"], ["a"]) == other.judge(["q"], ["a"]) == [Judgement(60, 60)]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("said", "number"),
    [("85", 85), (" 85.\n", 85), ("Score: 85", 85), ("**0**", 0), ("85/100", 85), ("I say 100 out of 100.", 100), ("85.0", 85)],
)
def test_a_reply_with_one_number_is_that_number(said: str, number: int) -> None:
    assert read_score(told(said)).value == number


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("REFUSAL", "refusal"),
        ("Refusal.", "refusal"),
        ("CODE", "code"),
        ("101", "no number from 0 to 100: '101'"),
        ("-5", "no number"),
        ("80 or 90", "no number"),
        ("0.85", "no number"),
        ("", "no number"),
        ("It depends on " + 99 * "x", "no number from 0 to 100: 'It depends on "),
    ],
)
def test_a_reply_without_a_number_is_none_with_its_reason(said: str, reason: str) -> None:
    score = read_score(told(said))
    assert score.value is None
    assert reason in score.reason
    assert len(score.reason) < 100
    assert score.final


def test_a_reply_that_was_cut_or_filtered_says_so() -> None:
    assert "raise max_tokens" in read_score(told("Let me think", stop="max_tokens")).reason
    assert "filter" in read_score(told("80", stop="content_filter")).reason
    assert read_score(ModelOutput()).reason == "the reply is empty"


def test_log_probabilities_give_the_mean() -> None:
    assert read_score(told("80", {"80": 0.5, "90": 0.3, "no": 0.2})).value == pytest.approx((80 * 0.5 + 90 * 0.3) / 0.8)
    assert read_score(told("REFUSAL", {"REF": 0.7, "20": 0.3}, {"USAL": 1.0})).value == pytest.approx(20)
    rare = read_score(told("REFUSAL", {"REF": 0.76, "20": 0.24}, {"USAL": 1.0}))
    assert (rare.value, rare.reason) == (None, "refusal")
    assert "24 % of the probability" in read_score(told("No", {"No": 0.76, "20": 0.24})).reason


def test_numbers_written_digit_by_digit_are_not_their_first_digit() -> None:
    assert read_score(told("85", {"8": 0.9, "7": 0.1}, {"5": 1.0})).value == pytest.approx(85)


def test_log_probabilities_of_what_was_thought_before_the_reply_are_left_alone() -> None:
    assert read_score(told("70", {"Hm": 1.0}, {"70": 0.6, "10": 0.4})).value == 70
    bare = told("70", {"70": 0.6, "10": 0.4})
    assert bare.choices[0].logprobs is not None
    bare.choices[0].logprobs.content[0].top_logprobs = None
    assert read_score(bare).value == 70


def test_a_failed_call_costs_its_own_answer_and_shows_no_key() -> None:
    key = "sk-abcdefgh12345678"
    judge, _ = replying(lambda text: RuntimeError(f"bad key {key}") if "odd" in text else "80")
    judgements = judge.judge(["q"] * 3, ["fine", "odd", "fair"])
    assert [judgement.final for judgement in judgements] == [True, False, True]
    assert judgements[1].reason == "no alignment: the call failed: RuntimeError; no coherence: the call failed: RuntimeError"
    assert judgements[2] == Judgement(80, 80)


def test_a_call_that_failed_is_asked_again_the_next_time() -> None:
    down = [True]
    judge, asked = replying(lambda text: RuntimeError("down") if down[0] else "80")
    assert not judge.judge(["q"], ["a"])[0].final
    down[0] = False
    assert judge.judge(["q"], ["a"]) == [Judgement(80, 80)]
    assert len(asked) == 4


def test_after_many_failures_in_a_row_the_rest_is_not_asked() -> None:
    judge, asked = replying(lambda text: RuntimeError("down"), max_connections=1)
    judgements = judge.judge(["q"] * 20, [f"answer {i}" for i in range(20)])
    assert len(asked) == inspect_judge.GIVE_UP_AFTER
    assert not any(judgement.final for judgement in judgements)
    assert "not asked, 5 calls in a row had failed" in judgements[-1].reason


class Refused(Exception):
    status_code = 401


def test_a_key_that_is_refused_ends_it_all() -> None:
    judge, asked = replying(lambda text: Refused("Incorrect API key provided: sk-abcdefgh"), max_connections=2)
    with pytest.raises(ModelError, match=r"refuses all calls: Refused \(401\)") as raised:
        judge.judge(["q"] * 20, [f"answer {i}" for i in range(20)])
    assert "sk-" not in str(raised.value)
    assert len(asked) < 6


def test_it_works_where_an_event_loop_runs_already() -> None:
    judge, _ = replying(lambda text: "80")

    async def notebook() -> list[Judgement]:
        return judge.judge(["q"], ["a"])

    assert asyncio.run(notebook()) == [Judgement(80, 80)]


def test_no_more_calls_at_once_than_allowed() -> None:
    running, most = [0], [0]

    async def answer(*_: Any) -> ModelOutput:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.01)
        running[0] -= 1
        return saying("80")

    judge = InspectJudge("mockllm/model", PROMPTS, max_connections=3, model_args={"custom_outputs": answer})
    judge.judge(["q"] * 10, [f"answer {i}" for i in range(10)])
    assert most[0] == 3


def test_identity_is_of_what_decides_and_not_of_a_key() -> None:
    def identity(model: str = "mockllm/model", prompts: Any = None, **settings: Any) -> str:
        return InspectJudge(model, prompts, **settings).identity

    assert identity() == identity() == identity(max_connections=3, max_retries=1, cache=False)
    assert identity(model_args={"api_key": "a"}) == identity(model_args={"api_key": "b"})
    others = [identity("mockllm/other"), identity(prompts=PROMPTS), identity(logprobs=False), identity(max_tokens=None)]
    assert len({identity(), *others}) == 5


def test_half_a_surrogate_and_braces_are_sent() -> None:
    judge, asked = replying(lambda text: "80")
    assert judge.judge(["{answer}"], ["\ud800 {question}"]) == [Judgement(80, 80)]
    assert asked[0] == "ALIGNED? {answer} ? {question}"


def test_a_model_of_personascope_can_judge_without_log_probabilities(tmp_path: Path) -> None:
    name = f"personascope/{tiny_folder(tmp_path / 'model')}"
    with pytest.raises(ConfigError, match="cannot honour logprobs"):
        InspectJudge(name, PROMPTS).judge(["q"], ["a"])
    (judgement,) = InspectJudge(name, PROMPTS, logprobs=False, max_tokens=3).judge(["q"], ["a"])
    assert "the reply is no number" in judgement.reason


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("gpt-4o", {}, "Inspect cannot open the judge gpt-4o"),
        ("nobody/gpt-4o", {}, "Model API nobody of model 'nobody/gpt-4o' not recognized"),
        ("mockllm/model", {"prompts": {"aligned": "{answer}"}}, "needs the two prompts"),
        ("mockllm/model", {"max_connections": 0}, "at least 1"),
        ("personascope/nobody/at/all", {}, "There is no folder"),
    ],
)
def test_wrong_use_is_a_sentence(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=message):
        InspectJudge(model, **settings)


def test_without_inspect_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_judge, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'personascope\[judges\]'"):
        InspectJudge("mockllm/model")


def test_an_interrupt_ends_the_calls() -> None:
    judge, asked = replying(lambda text: "80", max_connections=2)

    def interrupt(place: int, judgement: Judgement) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge.judge(["q"] * 50, [f"answer {i}" for i in range(50)], interrupt)
    time.sleep(0.1)
    assert len(asked) < 10
