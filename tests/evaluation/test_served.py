"""Models behind an endpoint: what they are called, what they are asked, and what their replies are taken for."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.endpoint import Failure
from interp.evaluation.served import Answered, ServedModel, TopTokens, parse_served, row_seed
from interp.models.chats import Chat
from interp.models.sampling import SamplingConfig
from tests.helpers.fake_endpoint import (
    QUICK,
    SAMPLING,
    FakeEndpoint,
    Reply,
    Request,
    chats,
    completion,
    echo,
    error,
    quick,
    with_logprobs,
    without_keys,
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


# what it is called


def test_a_spec_is_model_and_url() -> None:
    assert parse_served("org/model@http://localhost:8000/v1/") == ("org/model", "http://localhost:8000/v1")
    assert parse_served(" gpt-4.1@https://api.openai.com/v1\n") == ("gpt-4.1", "https://api.openai.com/v1")
    assert parse_served("org/model@main@http://[::1]:8000/v1") == ("org/model@main", "http://[::1]:8000/v1")
    for spec in ("org/model", "runs/demo@tuned", "run@http", "run@https", "a@httpx://b", "http://host/v1", ""):
        assert parse_served(spec) is None
    with pytest.raises(ConfigError, match="written MODEL@http"):
        ServedModel("org/model")


@pytest.mark.parametrize(
    "spec",
    [
        "m@http://user:hunter22@host/v1",
        "m@http://hunter22@host:80/v1",
        "m@https://host/v1?api-key=hunter22",
        "m@http://u:hunter22@http.example.org/v1",
        "m@http://u:hunter22@http://host/v1",
        "m@http://host/v1#hunter22",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(ConfigError, match="neither user, password nor query") as caught:
        parse_served(spec)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["@http://host/v1", " @http://host/v1", "m@http://", "m@http://:80/v1", "m@http://host:port", "m@http://a b/"]
)
def test_a_spec_that_cannot_be_asked_says_why(spec: str) -> None:
    with pytest.raises(ConfigError, match="no model before" if spec.strip().startswith("@") else "no valid host"):
        ServedModel(spec)


def test_the_identity_is_model_and_url_and_never_key_or_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ServedModel("m@http://host/v1")
    monkeypatch.setenv("PERSONASCOPE_API_KEY", "sk-another-key-0123")
    assert ServedModel("m@http://host/v1/", quick(concurrency=1)).identity == one.identity
    assert len({one.identity, ServedModel("n@http://host/v1").identity, ServedModel("m@http://other/v1").identity}) == 3


# what is asked


def test_answers_come_in_order_with_the_settings_of_sampling() -> None:
    asked = [Chat.ask(f"q{i}", system="be brief" if i else None) for i in range(9)]
    handed: dict[int, Answered] = {}
    moved: list[int] = []
    with FakeEndpoint(echo) as endpoint:
        served = ServedModel(endpoint.spec, QUICK)
        found = served.answers(asked, SAMPLING, seed=5, progress=moved.append, done=handed.__setitem__)
    assert found == [Answered(f"to q{i}") for i in range(9)]
    assert [handed[i] for i in range(9)] == found
    assert moved == [1] * 9
    bodies = sorted((request.body for request in endpoint.requests), key=lambda body: str(body["messages"][-1]))
    for i, body in enumerate(bodies):
        seed, messages = body.pop("seed"), body.pop("messages")
        assert seed == row_seed(5, i)
        assert messages == ([{"role": "system", "content": "be brief"}] if i else []) + [{"role": "user", "content": f"q{i}"}]
        assert body == {"model": "org/model", "max_tokens": 7, "temperature": 0.8}
    assert endpoint.requests[0].key == "none"


def test_seeds_differ_by_row_and_follow_the_stream() -> None:
    with FakeEndpoint(echo) as endpoint:
        served = ServedModel(endpoint.spec, quick(concurrency=1))
        served.answers([Chat.ask("same")] * 4, SAMPLING, seed=0)
        served.answers([Chat.ask("same")] * 2, SAMPLING, seed=0, streams=[3, 1])
        seeds = [request.body["seed"] for request in endpoint.requests]
        with pytest.raises(ConfigError, match="one stream a chat"):
            served.answers(chats(2), SAMPLING, 0, streams=[0])
        assert served.answers([], SAMPLING, 0) == []
    assert len(set(seeds[:4])) == 4
    assert seeds[4:] == [seeds[3], seeds[1]]
    assert all((row_seed(3, stream) - row_seed(0, stream)) % 2**31 == 3 for stream in range(50))
    assert all(0 <= row_seed(2**31 - 1, stream) < 2**31 for stream in range(50))


def test_min_p_is_dropped_once_where_the_server_refuses_it() -> None:
    def script(request: Request) -> Reply:
        return error("Unrecognized request argument supplied: min_p", 400) if "min_p" in request.body else echo(request)

    with FakeEndpoint(echo) as endpoint:
        ServedModel(endpoint.spec, QUICK).answers(chats(1), SamplingConfig(min_p=0.05), 0)
        assert endpoint.requests[0].body["min_p"] == 0.05
    with FakeEndpoint(script) as endpoint:
        served = ServedModel(endpoint.spec, quick(max_retries=0))
        with pytest.warns(UserWarning, match="does not take min_p") as warned:
            found = served.answers(chats(12), SamplingConfig(min_p=0.05), 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            served.answers(chats(2), SamplingConfig(min_p=0.05), 0)
    assert [answer.text for answer in found] == [f"to question {i}" for i in range(12)]
    assert len(warned) == 1
    assert sum("min_p" in request.body for request in endpoint.requests) <= QUICK.concurrency
    assert served.dropped == {"min_p"}


def test_top_p_is_sent_where_sampling_has_it() -> None:
    class Nucleus(SamplingConfig):
        top_p: float = 0.9

    with FakeEndpoint(echo) as endpoint:
        ServedModel(endpoint.spec, QUICK).answers(chats(1), Nucleus(), 0)
    assert endpoint.requests[0].body["top_p"] == 0.9


def test_next_tokens_are_the_greedy_reply_with_its_alternatives() -> None:
    reply = with_logprobs({"8": 0.5, "9": 0.25}, {"5": 1.0})
    with FakeEndpoint(lambda request: Reply(reply)) as endpoint:
        (found,) = ServedModel(endpoint.spec, QUICK).next_tokens(chats(1), n_tokens=5, top=7)
    assert isinstance(found, TopTokens)
    assert found.tokens == ("8", "5")
    assert [dict(top) for top in found.top] == [pytest.approx({"8": -0.6931, "9": -1.3863}, abs=1e-3), {"5": 0.0}]
    body = endpoint.requests[0].body
    assert {name: body[name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 7,
    }


# replies


@pytest.mark.parametrize(
    ("body", "reason", "final"),
    [
        (completion(None), "no text (finish reason: stop)", False),
        (completion(None, finish_reason="content_filter"), "no text (finish reason: content_filter)", True),
        ({"choices": [{}]}, "no text (finish reason: None)", False),
        ({"choices": [{"message": {"content": [1]}}]}, "no text", False),
    ],
)
def test_a_reply_without_text_is_none(body: Any, reason: str, final: bool) -> None:
    with FakeEndpoint(lambda request: Reply(body)) as endpoint:
        (found,) = ServedModel(endpoint.spec, QUICK).answers(chats(1), SAMPLING, 0)
    assert found.text is None
    assert reason in found.reason
    assert found.final == final
    assert len(endpoint.requests) == 1


def test_empty_answers_are_answers_and_half_surrogates_are_replaced() -> None:
    with FakeEndpoint(lambda request: Reply(completion({"a": "", "b": " \ud800! "}.get(request.prompt, "?")))) as endpoint:
        served = ServedModel(endpoint.spec, QUICK)
        found = served.answers([Chat.ask("a"), Chat.ask("b"), Chat.ask("\udfff")], SAMPLING, 0)
    assert found == [Answered(""), Answered("?!"), Answered("?")]


def nan_logprobs() -> Any:
    body = with_logprobs({"8": 0.5})
    body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = float("nan")
    return body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion("85"), "no logprobs"),
        (completion("85", logprobs=None), "no logprobs"),
        (completion("85", logprobs={"content": []}), "no logprobs"),
        (completion("85", logprobs={"content": [7]}), "no top_logprobs"),
        (completion("85", logprobs={"content": [{"token": "85", "logprob": -0.1}]}), "no top_logprobs"),
        (
            completion("85", logprobs={"content": [{"token": "85", "logprob": "x", "top_logprobs": [{"token": "8", "logprob": 0}]}]}),
            "no log-pr",
        ),
        (with_logprobs({"8": 0.9, "7": 0.9}), "no log-probabilities"),
        (with_logprobs({"8": 3.0}), "no log-probabilities"),
        (nan_logprobs(), "no log-probabilities"),
    ],
)
def test_logprobs_that_are_none_are_a_failure(body: Any, reason: str) -> None:
    with FakeEndpoint(lambda request: Reply(body)) as endpoint:
        (found,) = ServedModel(endpoint.spec, QUICK).next_tokens(chats(1), 3)
    assert isinstance(found, Failure)
    assert reason in found.reason
    assert not found.final


# imports


def test_it_is_imported_without_torch_or_openai_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, interp.evaluation.served; sys.exit(bool({'torch', 'openai', 'httpx2', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match="package openai is missing"):
        ServedModel("m@http://127.0.0.1:9/v1", QUICK).answers(chats(1), SAMPLING, 0)
