"""Hosted models that name the limit of a reply otherwise, or take no temperature."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from interp.evaluation.hosted_model import HostedModel
from interp.evaluation.judges.hosted import HostedJudge
from interp.evaluation.judges.numeric import NumericPrompts
from tests.evaluation.test_hosted_model import ask, texts
from tests.helpers import fake_endpoint as fake
from tests.helpers.fake_endpoint import FakeEndpoint, Request, chats, completion, echo, error, hosted_environment, quick


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosted_environment(monkeypatch, tmp_path)


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model. Use 'max_completion_tokens' instead."


def thinking(request: Request) -> fake.Reply:
    """A deployment of a model that thinks: its limit has another name, and its temperature is fixed."""
    if "max_tokens" in request.body:
        return error(UNSUPPORTED.format("max_tokens"), 400)
    if "temperature" in request.body:
        return error("Unsupported value: 'temperature' does not support 0.8 with this model. Only the default (1) value is supported.", 400)
    return echo(request)


def test_a_model_that_wants_another_name_of_the_limit_gets_it() -> None:
    with FakeEndpoint(thinking) as endpoint, pytest.warns(UserWarning, match="does not take temperature: it is asked without"):
        assert texts(ask(endpoint, chats(3))) == [f"to question {i}" for i in range(3)]
    answered = [r.body for r in endpoint.requests if "max_tokens" not in r.body and "temperature" not in r.body]
    assert [body["max_completion_tokens"] for body in answered] == [7] * 3


def test_a_limit_that_is_too_large_is_no_other_name_of_it() -> None:
    with FakeEndpoint(lambda request: error("max_tokens is too large: 7. This model supports at most 5", 400)) as endpoint:
        replies = ask(endpoint, chats(1))
    assert (replies[0].output, len(endpoint.requests)) == (None, 1)
    assert "max_tokens is too large" in replies[0].reason


@pytest.mark.parametrize("name", ["o3-mini", "gpt-5-nano"])
def test_openais_own_models_are_known_by_their_names(name: str) -> None:
    with FakeEndpoint(thinking) as endpoint:
        model = HostedModel(f"{name}@{endpoint.url}", **quick())
        assert texts(model.ask(chats(1), {"max_tokens": 7})) == ["to question 0"]
    assert [r.body["max_completion_tokens"] for r in endpoint.requests] == [7]


def test_a_judge_that_thinks_scores_every_answer() -> None:
    """Where the limit, the temperature and log-probabilities are refused it is asked several times."""

    def script(request: Request) -> fake.Reply:
        refused = next((name for name in ("max_tokens", "logprobs", "temperature") if name in request.body), None)
        return error(UNSUPPORTED.format(refused), 400) if refused else fake.Reply(completion("85"))

    with FakeEndpoint(script) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = HostedJudge(HostedModel(endpoint.spec, **quick()), NumericPrompts("T {answer}", "C {answer}"))
        found = judge.judge(["q"] * 3, ["a", "b", "c"])
    assert [(j.trait_score, j.coherence, j.reason) for j in found] == [(85, 85, "")] * 3
