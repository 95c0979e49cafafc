"""Hosted models: how they are named, what they are asked, what is asked again, and that nothing answered is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from interp.core.errors import ConfigError, ModelError, PersonascopeError
from interp.evaluation import hosted_model
from interp.evaluation.hosted_model import HostedModel, Reply, parse_hosted
from interp.models.chats import Chat
from tests.helpers import fake_endpoint as fake
from tests.helpers.fake_endpoint import FakeEndpoint, Request, chats, completion, echo, error, hosted_environment, quick

SETTINGS = {"max_tokens": 7, "temperature": 0.8}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosted_environment(monkeypatch, tmp_path)


def ask(endpoint: FakeEndpoint, asked: list[Chat], *args: Any, **patience: Any) -> list[Reply]:
    return HostedModel(endpoint.spec, **quick(**patience)).ask(asked, SETTINGS, *args)


def texts(replies: list[Reply]) -> list[str | None]:
    return [None if reply.output is None else reply.output.completion.strip() for reply in replies]


# how it is named


def test_a_name_is_one_of_inspect_or_a_model_and_a_url() -> None:
    assert parse_hosted("inspect:openai/gpt-4o") == ("openai/gpt-4o", None)
    assert parse_hosted("inspect:vllm/m@http://h:1/v1") == ("vllm/m", "http://h:1/v1")
    server = "openai-api/personascope/"
    assert parse_hosted("org/model@http://localhost:8000/v1/") == (f"{server}org/model", "http://localhost:8000/v1")
    assert parse_hosted(" gpt-4.1@https://api.openai.com/v1\n") == (f"{server}gpt-4.1", "https://api.openai.com/v1")
    assert parse_hosted("org/model@main@http://[::1]:8000/v1") == (f"{server}org/model@main", "http://[::1]:8000/v1")
    for spec in ("org/model", "runs/demo@tuned", "run@http", "run@https", "a@httpx://b", "http://host/v1", ""):
        assert parse_hosted(spec) is None
    with pytest.raises(ConfigError, match="written inspect:PROVIDER/MODEL or MODEL@http"):
        HostedModel("org/model")


@pytest.mark.parametrize(
    "spec",
    [
        "m@http://user:hunter22@host/v1",
        "m@http://hunter22@host:80/v1",
        "m@https://host/v1?api-key=hunter22",
        "inspect:vllm/m@https://host/v1?api-key=hunter22",
        "m@http://u:hunter22@http.example.org/v1",
        "m@http://u:hunter22@http://host/v1",
        "m@http://host/v1#hunter22",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(ConfigError, match="neither user, password nor query") as caught:
        parse_hosted(spec)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["@http://host/v1", " @http://host/v1", "m@http://", "m@http://:80/v1", "m@http://host:port", "m@http://a b/"]
)
def test_a_url_that_cannot_be_asked_says_why(spec: str) -> None:
    with pytest.raises(ConfigError, match="no model before" if spec.strip().startswith("@") else "no valid host"):
        HostedModel(spec)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("inspect:gpt-4o", {}, "Inspect cannot open gpt-4o"),
        ("inspect:nobody/gpt-4o", {}, "Model API nobody of model 'nobody/gpt-4o' not recognized"),
        ("inspect:openai/gpt-4o", {}, "OPENAI_API_KEY"),
        ("inspect:mockllm/model", {"max_connections": 0}, "at least 1"),
        ("inspect:personascope/nobody/at/all", {}, "There is no folder"),
    ],
)
def test_wrong_use_is_a_sentence(spec: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PersonascopeError, match=message):
        HostedModel(spec, **settings)


def test_it_imports_nothing_slow_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, interp.evaluation.hosted_model; sys.exit(bool({'torch', 'openai', 'inspect_ai', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setattr(hosted_model, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'personascope\[judges\]'"):
        HostedModel("inspect:mockllm/model")


def test_the_identity_is_name_url_and_settings_and_never_key_or_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(spec: str = "m@http://host/v1", **settings: Any) -> str:
        return HostedModel(spec, **settings).identity

    one = identity()
    monkeypatch.setenv("PERSONASCOPE_API_KEY", "sk-another-key-0123")
    assert one == identity("m@http://host/v1/") == identity(max_connections=1, timeout=3) == identity(model_args={"api_key": "a"})
    others = [identity("n@http://host/v1"), identity("m@http://other/v1"), identity(model_args={"stream": True})]
    assert len({one, *others, identity("inspect:mockllm/model")}) == 5


# what is asked


def test_replies_come_in_order_to_what_was_asked() -> None:
    asked = [Chat.ask(f"q{i}", system="be brief" if i else None) for i in range(9)]
    arrived: list[int] = []
    with FakeEndpoint(echo) as endpoint:
        model = HostedModel(endpoint.spec, **quick())
        replies = model.ask(asked, SETTINGS, range(10, 19), arrived.append)
        assert model.ask([], SETTINGS) == []
    assert texts(replies) == [f"to q{i}" for i in range(9)]
    assert arrived == [1] * 9
    for i, body in enumerate(sorted((request.body for request in endpoint.requests), key=lambda body: body["seed"])):
        messages = ([{"role": "system", "content": "be brief"}] if i else []) + [{"role": "user", "content": f"q{i}"}]
        assert body == {"model": "org/model", "messages": messages, "seed": 10 + i, **SETTINGS}


def test_turns_keep_their_roles_and_half_surrogates_are_replaced() -> None:
    chat = Chat((*Chat.ask("a", "b").messages, *Chat.ask("\udfff").messages))
    with FakeEndpoint(echo) as endpoint:
        ask(endpoint, [chat])
    assert [(m["role"], m["content"]) for m in endpoint.requests[0].body["messages"]] == [("user", "a"), ("assistant", "b"), ("user", "?")]


@pytest.mark.parametrize("field", ["min_p", "top_logprobs", "seed"])
def test_a_setting_that_the_server_refuses_is_dropped_and_reported_once(field: str) -> None:
    settings = {**SETTINGS, "min_p": 0.05, "logprobs": True, "top_logprobs": 5}

    def script(request: Request) -> Any:
        return error(f"Unrecognized request argument supplied: {field}", 400) if field in request.body else echo(request)

    with FakeEndpoint(script) as endpoint:
        model = HostedModel(endpoint.spec, **quick(max_retries=0))
        with pytest.warns(UserWarning, match="does not take") as warned:
            replies = model.ask(chats(12), settings, range(12))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.ask(chats(2), settings, range(2), scope="another")
    assert texts(replies) == [f"to question {i}" for i in range(12)]
    assert model.dropped == ({"logprobs", "top_logprobs"} if field == "top_logprobs" else {field})
    assert sorted(str(w.message).split()[4].rstrip(":") for w in warned) == sorted(model.dropped)
    assert sum(field in request.body for request in endpoint.requests) <= 4


def test_a_provider_that_cannot_send_min_p_is_asked_without_and_it_is_said() -> None:
    model = HostedModel("inspect:mockllm/model", model_args={"custom_outputs": fake.outputs(lambda text: "yes")})
    with pytest.warns(UserWarning, match="does not take min_p"):
        assert texts(model.ask(chats(1), {**SETTINGS, "min_p": 0.1})) == ["yes"]


def test_what_was_answered_is_kept_at_once_and_not_asked_again() -> None:
    """By another object, as after a kill; another seed or scope is another question."""
    with FakeEndpoint(lambda request: echo(request) if request.n < 3 else error("down", 503)) as endpoint:
        assert texts(ask(endpoint, chats(5), max_connections=1)).count(None) == 2
        again = ask(endpoint, chats(5), max_connections=1)
        assert texts(again) == ["to question 0", "to question 1", "to question 2", None, None]
        assert endpoint.prompts().count("question 0") == 1
    with FakeEndpoint(echo) as endpoint:
        model = HostedModel(endpoint.spec, **quick())
        for seeds, scope in (([1], "a"), ([2], "a"), ([1], "b"), ([1], "a")):
            model.ask(chats(1), SETTINGS, seeds, scope=scope)
        assert len(endpoint.requests) == 3


# what fails

PASSING: dict[str, tuple[Callable[[], Any], str]] = {
    "hangs": (lambda: fake.Reply(hang=True), "APITimeoutError: Request timed out"),
    "garbage": (lambda: fake.Reply(b"\xff\xfe\x00<html>\x93"), "JSONDecodeError"),
    "half JSON": (lambda: fake.Reply(b'{"choices": [{"mess'), "JSONDecodeError: Unterminated"),
    "deep JSON": (lambda: fake.Reply(b"[" * 100_000), "RecursionError"),
    "a web page": (lambda: fake.Reply(b"<html>log in</html>", headers={"content_type": "text/html"}), "<html>log in"),
    "nothing": (lambda: fake.Reply(b""), "JSONDecodeError"),
    "another JSON": (lambda: fake.Reply(["choices"]), r"\['choices'\]"),
    "no choices": (lambda: fake.Reply(completion("") | {"choices": []}), "no choices"),
    "no message": (lambda: fake.Reply(completion("") | {"choices": [{}]}), "Error: "),
    "broken compression": (lambda: fake.Reply(b"no gzip", headers={"content_encoding": "gzip"}), "APIConnectionError"),
    "cut body": (lambda: fake.Reply(completion("lost"), cut=50), "APIConnectionError"),
    "closed socket": (lambda: fake.Reply(drop=True), "APIConnectionError: Connection error"),
    "429": (lambda: error("slow down", 429, retry_after="0.01"), "429: slow down"),
    "500": (lambda: error("boom", 500), "500: boom"),
    "502 page": (lambda: fake.Reply(b"<h1>Bad gateway</h1>", 502), "502: <h1>Bad"),
    "503 without a word": (lambda: fake.Reply(b"", 503), "503: "),
    "408": (lambda: error("too slow", 408), "408: too slow"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again_and_else_is_none_with_the_reason(name: str) -> None:
    """Once for 'question 1', for good for 'question 2'; the others are answered."""
    fault, words = PASSING[name]

    def script(request: Request) -> Any:
        return fault() if request.prompt == "question 2" or (request.prompt == "question 1" and request.tries == 1) else echo(request)

    with FakeEndpoint(script) as endpoint:
        replies = ask(endpoint, chats(4), max_retries=1)
    assert texts(replies) == ["to question 0", "to question 1", None, "to question 3"]
    assert [endpoint.prompts().count(f"question {i}") for i in range(4)] == [1, 2, 2, 1]
    assert re.search(words, replies[2].reason)
    assert replies[2].reason.endswith("(asked 2 times)")
    assert not replies[2].final


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_not_repeated_and_stops_no_other(status: int) -> None:
    refusal = error("the prompt is too long", status)
    with FakeEndpoint(lambda request: refusal if request.prompt == "question 0" else echo(request)) as endpoint:
        replies = ask(endpoint, chats(3))
    assert replies[0] == Reply(None, f"{status}: the prompt is too long", final=True)
    assert texts(replies[1:]) == ["to question 1", "to question 2"]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_never_work_is_one_error_at_once(status: int) -> None:
    script: Callable[[Request], Any] = lambda request: echo(request) if request.n < 3 else error("no", status)  # noqa: E731
    with FakeEndpoint(script) as endpoint:
        with pytest.raises(ModelError, match=rf"refuses all calls \({status}: no\)"):
            ask(endpoint, chats(50), max_connections=1)
        seen = len(endpoint.requests)
        assert seen <= 5
        assert texts(ask(endpoint, chats(3))) == [f"to question {i}" for i in range(3)]
        assert len(endpoint.requests) == seen


def test_a_server_that_dies_half_way_loses_nothing_and_is_given_up() -> None:
    arrived: list[int] = []
    with FakeEndpoint(lambda request: echo(request) if request.n < 20 else fake.Reply(die=True)) as endpoint:
        replies = ask(endpoint, chats(2000), None, arrived.append)
        answered = {request.prompt for request in endpoint.requests[:20]}
    assert sum(arrived) == 2000
    assert {f"question {i}" for i, text in enumerate(texts(replies)) if text} == answered
    failed = [reply for reply in replies if reply.output is None]
    assert len(failed) == 1980
    assert not any(reply.final for reply in failed)
    asked = sum("APIConnectionError" in reply.reason for reply in failed)
    assert hosted_model.GIVE_UP_AFTER <= asked <= hosted_model.GIVE_UP_AFTER + 4
    assert sum("not asked, " in reply.reason for reply in failed) == 1980 - asked


def test_failures_between_answers_are_no_reason_to_give_up_and_the_next_call_asks_again() -> None:
    odd = {f"question {i}" for i in range(1, 24, 2)}
    up = [False]
    with FakeEndpoint(lambda request: error("boom", 500) if request.prompt in odd and not up[0] else echo(request)) as endpoint:
        assert texts(ask(endpoint, chats(24), max_connections=1)) == [None if i % 2 else f"to question {i}" for i in range(24)]
        up[0] = True
        assert None not in texts(ask(endpoint, chats(24)))


def test_no_more_requests_at_once_than_allowed() -> None:
    under_way, most, lock = [0], [0], threading.Lock()

    def script(request: Request) -> Any:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        with lock:
            under_way[0] -= 1
        return echo(request)

    with FakeEndpoint(script) as endpoint:
        ask(endpoint, chats(24), max_connections=3)
    assert most == [3]


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def notebook() -> list[Reply]:
        return ask(endpoint, chats(2))

    with FakeEndpoint(echo) as endpoint:
        assert texts(asyncio.run(notebook())) == ["to question 0", "to question 1"]


# interrupts


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_at_once_and_keeps_what_was_answered() -> None:
    def script(request: Request) -> Any:
        if request.n == 5:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return echo(request) if request.n < 5 else fake.Reply(hang=True)

    with FakeEndpoint(script) as endpoint:
        model = HostedModel(endpoint.spec, **quick(model_args={"client_timeout": 30.0}))
        with pytest.raises(KeyboardInterrupt):
            model.ask(chats(100), SETTINGS)
        seen = len(endpoint.requests)
        assert seen <= 5 + 4
        first = endpoint.prompts()[:5]
        assert texts(ask(endpoint, [Chat.ask(prompt) for prompt in first])) == [f"to {prompt}" for prompt in first]
        assert len(endpoint.requests) == seen


def test_an_error_of_the_caller_stops_the_requests_and_what_came_is_kept() -> None:
    def full(n: int) -> None:
        time.sleep(0.1)  # others arrive meanwhile
        raise OSError("disk full")

    with FakeEndpoint(echo) as endpoint:
        with pytest.raises(OSError, match="disk full"):
            ask(endpoint, chats(2000), None, full)
        time.sleep(0.1)
        first = endpoint.prompts()
        assert len(first) < 1000
        ask(endpoint, [Chat.ask(prompt) for prompt in first[:-4]])
        assert len(endpoint.requests) == len(first)
