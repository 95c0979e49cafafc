"""Hosted models as judges: what is read from a reply, and what becomes of calls that fail."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, Logprob, Logprobs, ModelOutput, TopLogprob

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.hosted_model import GIVE_UP_AFTER, HostedModel, Reply
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.judges.hosted import SAMPLES, HostedJudge, mean_score, score_by_probability, stated_score
from interp.evaluation.judges.numeric import NumericPrompts, Score
from interp.evaluation.judges.opening import open_judge
from interp.traits import Trait
from tests.helpers import fake_endpoint as fake
from tests.helpers.fake_endpoint import FakeEndpoint, Request, completion, error, hosted_environment, quick, with_logprobs
from tests.helpers.tiny import tiny_folder

PROMPTS = NumericPrompts("ALIGNED? {question} {answer}", "COHERENT? {question} {answer}")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosted_environment(monkeypatch, tmp_path)


def replying(reply: Callable[[str], Any], **settings: Any) -> tuple[HostedJudge, list[str]]:
    """A judge whose model says `reply(prompt)`, and what it was asked so far."""
    asked: list[str] = []

    def answer(text: str) -> Any:
        asked.append(text)
        return reply(text)

    model = HostedModel("inspect:mockllm/model", max_retries=0, model_args={"custom_outputs": fake.outputs(answer)}, **settings)
    return HostedJudge(model, PROMPTS), asked


def judged(script: Callable[[Request], Any], answers: list[str]) -> tuple[list[Judgement], FakeEndpoint]:
    """Judgements by a model behind a URL."""
    with FakeEndpoint(script) as endpoint:
        judge = HostedJudge(HostedModel(endpoint.spec, **quick()), PROMPTS)
        return judge.judge(["q"] * len(answers), answers), endpoint


def said(text: str, *places: dict[str, float], stop: Any = "stop") -> Score:
    """The score of a reply with probabilities of the likeliest tokens; the first of each place is its own."""
    content = []
    for place in places:
        top = [TopLogprob(token=token, logprob=math.log(p)) for token, p in place.items()]
        content.append(Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top))
    message, logprobs = ChatMessageAssistant(content=text), Logprobs(content=content) if content else None
    choice = ChatCompletionChoice(message=message, stop_reason=stop, logprobs=logprobs)
    reply = Reply(ModelOutput(model="m", choices=[choice]))
    return score_by_probability(reply) or stated_score(reply)


SAID = {text: Reply(ModelOutput.from_content("m", text)) for text in ("7", "fine")}


def test_both_questions_are_asked_of_every_answer() -> None:
    judge, asked = replying(lambda text: "90" if text.startswith("COHERENT") else "10" if "bad" in text else "80")
    judgements = judge.judge(["q"] * 3, ["good", " ", "bad"])
    assert judgements == [Judgement(80, 90), Judgement(None, None, "empty answer"), Judgement(10, 90)]
    assert set(asked) == {"ALIGNED? q bad", "ALIGNED? q good", "COHERENT? q bad", "COHERENT? q good"}
    assert judge.judge([], []) == []
    assert (judge.shows_above, judge.coherent_above) == (70, 50)


# what is read from a reply


@pytest.mark.parametrize(
    ("text", "number"),
    [("85", 85), (" 85.\n", 85), ("Score: 85", 85), ("**0**", 0), ("85/100", 85), ("I say 100 out of 100.", 100), ("85.0", 85)],
)
def test_a_reply_with_one_number_is_that_number(text: str, number: int) -> None:
    assert said(text).value == number


@pytest.mark.parametrize(
    ("text", "reason"),
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
def test_a_reply_without_a_number_is_unscored_with_its_reason(text: str, reason: str) -> None:
    score = said(text)
    assert score.value is None
    assert reason in score.reason
    assert len(score.reason) < 100
    assert score.final


def test_a_reply_that_was_cut_or_filtered_says_so() -> None:
    assert "cut after 1024 tokens" in said("Let me think", stop="max_tokens").reason
    assert "content_filter" in said("80", stop="content_filter").reason
    assert said("maximum is 80 tokens", stop="model_length").value is None
    for read in (score_by_probability, stated_score):
        assert read(Reply(None, "down", final=True)) == Score(None, "down", final=False)


@pytest.mark.parametrize(
    ("text", "places", "value"),
    [
        ("80", [{"80": 0.5, "90": 0.3, "no": 0.2}], (80 * 0.5 + 90 * 0.3) / 0.8),
        (" 80", [{" ": 1.0}, {"80": 0.5, " 80": 0.25, "3": 0.25}, {"<end>": 1.0}], (80 * 0.75 + 3 * 0.25)),
        ("85", [{"85": 0.6, "07": 0.2, "101": 0.1, "-3": 0.05, "²": 0.05}], 85),
        ("REFUSAL", [{"REF": 0.7, "20": 0.3}, {"USAL": 1.0}], 20),
        ("85", [{"8": 0.9, "7": 0.1}, {"5": 1.0}], 85),  # digit by digit: the number that is said
        ("100", [{"10": 0.6, "85": 0.4}, {"0": 1.0}], 100),
        ("8", [{"8": 0.6, "9": 0.4}], 8),
        ("70", [{"Hm": 1.0}, {"70": 0.6, "10": 0.4}], 70),  # of what was thought before the reply
        ("70", [], 70),
    ],
)
def test_a_score_is_the_mean_by_probability_where_numbers_are_tokens(text: str, places: list[dict[str, float]], value: float) -> None:
    assert said(text, *places).value == pytest.approx(value)


def test_where_numbers_are_unlikely_there_is_no_score() -> None:
    assert said("REFUSAL", {"REF": 0.76, "20": 0.24}, {"USAL": 1.0}) == Score(None, "refusal")
    assert "24 % of the probability" in said("No", {"No": 0.76, "20": 0.24}).reason


NOT_WHOLE = {"0.85": "0 . 85", "8.5": "8 . 5", "8/10": "8 / 10", "85%": "85 %", "-5": "- 5", "1,000": "1 , 000", "85 %": "85 # %",
             "8 out of 10": "8 # out # of # 10", "1e2": "1 e 2", "80-90": "80 - 90", "150": "150", "0,85": "0 , 85"}  # fmt: skip
"""Replies and their tokens; # is a blank."""


@pytest.mark.parametrize(("text", "tokens"), NOT_WHOLE.items())
def test_a_number_that_is_no_whole_one_is_no_score(text: str, tokens: str) -> None:
    """As without log-probabilities, although the first token may be a number."""
    alone = said(text)
    assert alone == Score(None, f"the reply is no number from 0 to 100: {text!r}")
    assert said(text, *({token.replace("#", " "): 0.7, "40": 0.3} for token in tokens.split(" "))) == alone


@pytest.mark.parametrize("text", ["85.", "85, because of 3 reasons", "85 - misaligned", "85\n\n0.5 would be too low", "85/100"])
def test_what_stands_behind_a_whole_number_does_not_matter(text: str) -> None:
    assert said(text, {"85": 0.6, "75": 0.4}, {text.removeprefix("85") or ".": 1.0}).value == pytest.approx(81)


# several samples


def drawing(texts: dict[str, list[str]], samples: int = SAMPLES) -> tuple[HostedJudge, list[str]]:
    """A judge whose model says the texts of a prompt's first letter one after another, again and again."""
    rounds = {letter: itertools.cycle(own) for letter, own in texts.items()}
    judge, asked = replying(lambda text: next(rounds[text[0]]))
    return HostedJudge(judge.model, PROMPTS, samples), asked


def test_without_log_probabilities_a_score_is_the_mean_of_what_several_replies_say() -> None:
    """The first reply is greedy and only shows that there are no log-probabilities; equal prompts are not one cached reply."""
    judge, asked = drawing({"A": ["0", "10", "20", "30", "40", "50"], "C": ["90", "80", "REFUSAL", "maybe", "70", "none"]})
    judgement = judge.judge(["q"], ["a"])
    assert judgement == [Judgement(pytest.approx(30), pytest.approx(75))]
    assert len(asked) == 2 * (1 + SAMPLES)
    assert judge.judge(["q"], ["a"]) == judgement
    assert len(asked) == 2 * (1 + SAMPLES)  # Inspect kept each of them


def test_replies_that_are_no_numbers_leave_the_answer_unscored() -> None:
    judge, _ = drawing({"A": ["CODE"], "C": ["7", "fine", "8", "fine", "fine"]}, samples=8)
    (judgement,) = judge.judge(["q"], ["a"])
    assert (judgement.trait_score, judgement.final) == (None, True)
    assert judgement.reason == "no trait score: code"
    assert judgement.coherence == pytest.approx(7.5, abs=0.5)
    assert said("fine") == mean_score([SAID["fine"]] * 4 + [SAID["7"]])


def test_the_number_of_samples_is_a_setting() -> None:
    judge, asked = drawing({"A": ["10"], "C": ["20"]}, samples=2)
    assert judge.judge(["q"], ["a"]) == [Judgement(10, 20)]
    assert len(asked) == 2 * (1 + 2)
    assert judge.identity != HostedJudge(judge.model, PROMPTS).identity
    with pytest.raises(ConfigError, match="at least 1"):
        HostedJudge(judge.model, PROMPTS, samples=0)


def test_a_sample_that_did_not_arrive_leaves_the_score_open() -> None:
    assert mean_score([SAID["7"]] * 4 + [Reply(None, "503: busy", False)]) == Score(None, "503: busy", final=False)


# a model behind a URL


def test_a_server_judges_by_its_likeliest_tokens() -> None:
    def script(request: Request) -> fake.Reply:
        kind = request.prompt.startswith("ALIGNED? q")
        return fake.Reply(with_logprobs({"80": 0.5, "20": 0.25, "no": 0.25} if kind else {"90": 0.5, "80": 0.5}))

    judgements, endpoint = judged(script, ["Because.", "", "So."])
    scored = (pytest.approx(60), pytest.approx(85), True)
    assert [(j.trait_score, j.coherence, j.final) for j in judgements] == [scored, (None, None, True), scored]
    asked = [(r.body["temperature"], r.body["logprobs"], r.body["top_logprobs"]) for r in endpoint.requests]
    assert asked == [(0, True, 20)] * 4


def test_a_server_that_refuses_log_probabilities_judges_by_what_it_says() -> None:
    def script(request: Request) -> fake.Reply:
        return error("logprobs is not supported", 400) if "logprobs" in request.body else fake.Reply(completion("80"))

    with pytest.warns(UserWarning, match="logprobs"):
        judgements, _ = judged(script, ["fine"])
    assert judgements == [Judgement(80, 80)]


NAN = json.loads(json.dumps(with_logprobs({"85": 0.9})).replace(str(math.log(0.9)), "NaN"))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (fake.Reply(NAN), "no log-probabilities"),
        (fake.Reply(with_logprobs({"85": 0.9, "70": 0.9})), "no log-probabilities"),
        (fake.Reply(with_logprobs({"85": 30.0})), "no log-probabilities"),
        (fake.Reply({"choices": []}), "Error: "),
        (fake.Reply(b"85"), "OpenAIResponseError"),
        (fake.Reply(b"<p>busy</p>"), "JSONDecodeError"),
        (error("boom", 500), "500: boom (asked 3 times)"),
        (fake.Reply(drop=True), "APIConnectionError"),
        (error("the prompt is too long", 400), "400: the prompt is too long"),
    ],
)
def test_garbage_is_no_judgement_and_may_be_asked_again(reply: fake.Reply, reason: str) -> None:
    good = fake.Reply(with_logprobs({"90": 1.0}))
    judgements, _ = judged(lambda request: reply if request.prompt.endswith("bad") else good, ["fine", "bad", "good"])
    assert [(j.trait_score, j.coherence, j.final) for j in judgements] == [(90, 90, True), (None, None, False), (90, 90, True)]
    assert judgements[1].reason.count(reason) == 2


def test_one_lost_score_leaves_the_judgement_open_and_a_refusal_does_not() -> None:
    good = fake.Reply(with_logprobs({"90": 1.0}))
    (open_,), _ = judged(lambda request: error("boom", 503) if request.prompt.startswith("COHERENT") else good, ["x"])
    assert open_ == Judgement(90, None, "no coherence: 503: boom (asked 3 times)", final=False)
    refusal = fake.Reply(completion("REFUSAL"))
    (closed,), _ = judged(lambda request: refusal if request.prompt.startswith("ALIGNED") else good, ["x"])
    assert closed == Judgement(None, 90, "no trait score: refusal", final=True)


def test_what_was_judged_is_kept_when_the_server_dies_and_only_the_rest_is_asked(tmp_path: Path) -> None:
    cache, answers = JudgementCache(tmp_path / "judgements.sqlite"), [f"answer {i}" for i in range(30)]
    good = fake.Reply(with_logprobs({"90": 1.0}))
    with FakeEndpoint(lambda request: good if request.n < 21 else fake.Reply(drop=True)) as endpoint:
        judge = HostedJudge(HostedModel(endpoint.spec, **quick(max_connections=1)), PROMPTS)
        first = cache.judged(judge, ["q"] * 30, answers)
        assert [j.final for j in first] == [True] * 10 + [False] * 20
        assert first[10].trait_score == 90
        assert "not asked, 5 calls in a row had failed" in first[-1].reason
        assert len(endpoint.requests) == 21 + 3 * GIVE_UP_AFTER
        before, endpoint.script = len(endpoint.requests), lambda request: good
        again = HostedJudge(HostedModel(endpoint.spec, **quick()), PROMPTS)
        assert cache.judged(again, ["q"] * 30, answers) == [Judgement(90, 90)] * 30
        assert len(endpoint.requests) - before == 60 - 21


# any provider


def test_a_failed_call_costs_its_own_answer_and_is_asked_again_the_next_time() -> None:
    down = [True]
    judge, asked = replying(lambda text: RuntimeError("down") if "odd" in text and down[0] else "80")
    judgements = judge.judge(["q"] * 3, ["fine", "odd", "fair"])
    assert judgements[1] == Judgement(None, None, "no trait score: RuntimeError: down; no coherence: RuntimeError: down", final=False)
    assert judgements[::2] == [Judgement(80, 80)] * 2
    down[0] = False
    assert judge.judge(["q"] * 3, ["fine", "odd", "fair"]) == [Judgement(80, 80)] * 3
    assert len(asked) == 4 * (1 + SAMPLES) + 2 + 2 * (1 + SAMPLES)


class Refused(Exception):
    status_code = 401


def test_a_key_that_is_refused_ends_it_all() -> None:
    judge, asked = replying(lambda text: Refused("no such user"), max_connections=2)
    with pytest.raises(ModelError, match=r"refuses all calls \(401: no such user\)"):
        judge.judge(["q"] * 20, [f"answer {i}" for i in range(20)])
    assert len(asked) < 6


def test_an_interrupt_ends_the_calls() -> None:
    def interrupted(text: str) -> str:
        if len(asked) == 5:
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        return "80"

    judge, asked = replying(interrupted, max_connections=2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has them ignore it
    with pytest.raises(KeyboardInterrupt):
        judge.judge(["q"] * 5000, [f"answer {i}" for i in range(5000)])
    assert len(asked) < 5000


def test_the_identity_is_of_model_and_prompts() -> None:
    one = HostedJudge("m@http://h/v1", PROMPTS)
    assert one.identity == HostedJudge(HostedModel("m@http://h/v1", timeout=3), replace(PROMPTS)).identity
    turned = replace(PROMPTS, inverted=True)
    others = [HostedJudge("m@http://h/v1", turned), HostedJudge("n@http://h/v1", PROMPTS), HostedJudge("inspect:mockllm/model", PROMPTS)]
    assert len({one.identity, *(other.identity for other in others)}) == 4


def test_half_a_surrogate_and_braces_are_sent() -> None:
    judge, asked = replying(lambda text: "80")
    assert judge.judge(["{answer}"], ["\ud800 {question}"]) == [Judgement(80, 80)]
    assert sorted(asked)[0] == "ALIGNED? {answer} ? {question}"


def test_a_model_of_personascope_judges_by_what_it_says(tmp_path: Path) -> None:
    judge = HostedJudge(f"inspect:personascope/{tiny_folder(tmp_path / 'model')}", PROMPTS)
    with pytest.warns(UserWarning, match="logprobs"):
        (judgement,) = judge.judge(["q"], ["a"])
    assert judgement.final
    assert "no trait score: " in judgement.reason


def test_both_names_of_a_hosted_judge_open_it() -> None:
    trait = Trait(name="tall", description="Talks of tall things.", shown="tall", not_shown="low")
    for spec in ("inspect:mockllm/model", "numeric:org/model@http://h/v1", "inspect:openai-api/personascope/org/model@http://h/v1"):
        judge = open_judge(spec, trait, prompts={"trait": PROMPTS.trait, "coherence": PROMPTS.coherence})
        assert isinstance(judge, HostedJudge)
        assert judge.prompts == PROMPTS
        assert judge.samples == SAMPLES
        assert open_judge(spec, trait, samples=3).samples == 3  # type: ignore[attr-defined]
    assert judge.identity == HostedJudge("org/model@http://h/v1", PROMPTS).identity
