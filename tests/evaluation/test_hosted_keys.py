"""The key of a hosted model: where it comes from, and that it shows nowhere: neither on disk nor in logs, errors, reprs or results."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.hosted_model import HostedModel, Reply
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.judges.hosted import HostedJudge
from interp.evaluation.judges.numeric import NumericPrompts
from interp.models.chats import Chat
from tests.helpers import fake_endpoint as fake
from tests.helpers.fake_endpoint import FakeEndpoint, chats, completion, echo, error, hosted_environment, quick

KEY = "sk-proj-Qx7vT2mWz9LpR4nK8dYb"
SETTINGS = {"max_tokens": 7, "logprobs": True}
KEPT = {"whole answer", "escaped", "in the id"}
"""Replies that are answers and so are kept by Inspect."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosted_environment(monkeypatch, tmp_path)


def test_the_key_of_a_url_is_ours_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEndpoint(echo) as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs-1234")
        for variable, sent in ((None, "none"), (f" {KEY}\n", KEY)):
            if variable:
                monkeypatch.setenv("PERSONASCOPE_API_KEY", variable)
            HostedModel(endpoint.spec, **quick()).ask(chats(1), SETTINGS, scope=sent)
            assert endpoint.requests[-1].key == sent


@pytest.mark.parametrize("key", ["sk-two\nlines-abcdef", "sk-blank abcdef", "sk-umlaut-äbcdef"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", key)
    with pytest.raises(ConfigError, match="holds blanks") as caught:
        HostedModel("m@http://host/v1")
    assert "bcdef" not in str(caught.value)


def shows_key(text: str) -> bool:
    """Whether five letters of the key stand in `text`, wherever they come from."""
    return any(KEY[i : i + 5].lower() in text.lower() for i in range(len(KEY) - 4))


MASKED = f"{KEY[:7]}****************{KEY[-4:]}"
ECHOES: dict[str, Callable[[], fake.Reply]] = {
    "whole": lambda: error(f"Incorrect API key provided: {KEY}. You can find your key at …", 500),
    "in a header and the status line": lambda: fake.Reply({}, 500, {"x_echo": f"Bearer {KEY}", "x_request_id": KEY}, phrase=f"Bad {KEY}"),
    "cut": lambda: error(f"Incorrect API key provided: {KEY[:12]}... and {KEY[-7:]}", 429),
    "masked": lambda: error(f"Incorrect API key provided: {MASKED}.", 400),
    "upper case": lambda: error(f"BAD {KEY.upper()}", 422),
    "page": lambda: fake.Reply(f"<p>{KEY}</p>".encode(), 502, {"content_type": "text/html"}),
    "page that is no error": lambda: fake.Reply(f"<p>{KEY}</p>".encode(), headers={"content_type": "text/html"}),
    "no JSON": lambda: fake.Reply(f"token {KEY}".encode()),
    "far into it": lambda: error("x" * 190 + KEY, 400),
    "whole answer": lambda: fake.Reply(completion(f"Your key is {KEY}, isn't it?")),
    "instead of an answer": lambda: fake.Reply(completion(KEY) | {"choices": [{"message": KEY, "finish_reason": KEY}]}),
    "in the id": lambda: fake.Reply(completion("fine") | {"id": KEY, "model": KEY, "system_fingerprint": KEY}),
    "escaped": lambda: fake.Reply(json.dumps(completion(f"It is {KEY}")).replace(KEY, KEY.replace("Q", "\\u0051")).encode()),
    "a redirect": lambda: fake.Reply({}, 302, {"location": f"http://127.0.0.1:9/{KEY}"}),
    "cut body": lambda: fake.Reply(completion(KEY), cut=9, headers={"x_echo": KEY}),
    "too long": lambda: fake.Reply({"error": {"message": f"{KEY} is too much", "code": "context_length_exceeded"}}, 400),
    "closed socket": lambda: fake.Reply(drop=True),
}


def on_disk(folder: Path) -> str:
    """All files: names and bytes."""
    return "".join(f"{path} {path.read_bytes().decode('latin-1')}" for path in folder.rglob("*") if path.is_file())


def test_the_key_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # where Inspect would write traces and logs
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []

    def show(thing: Any) -> None:
        shown.extend((repr(thing), str(thing)))

    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "inspect_ai"):
        caplog.set_level(logging.DEBUG, name)
    caplog.set_level(logging.DEBUG)
    names = list(ECHOES)
    with FakeEndpoint(lambda request: ECHOES[request.prompt.split(" answers ")[-1]]()) as endpoint:
        model = HostedModel(endpoint.spec, **quick())
        replies = []
        for name in names:
            replies += model.ask([Chat.ask(name)], SETTINGS)
        judge = HostedJudge(model, NumericPrompts("{question} answers {answer}", "{question}? answers {answer}"))
        cache = JudgementCache(tmp_path / "judgements.sqlite")
        for name in names:
            show(cache.judged(judge, [name], [name]))
        assert all(request.key == KEY for request in endpoint.requests)
    for thing in (replies, [asdict(reply) for reply in replies], model, vars(model), judge, vars(judge), model.identity, judge.identity):
        show(thing)
    captured = capfd.readouterr()
    logged = [caplog.text, *(str(vars(record)) for record in caplog.records)]
    for text in [*shown, *logged, *(str(warning.message) for warning in recwarn), captured.out, captured.err, on_disk(tmp_path)]:
        assert not shows_key(text), text
    kept = {name: reply.output.completion for name, reply in zip(names, replies, strict=True) if reply.output}
    assert kept.keys() == {*KEPT, "too long"}
    assert kept["whole answer"] == "Your key is ***, isn't it?"
    assert kept["escaped"] == "It is ***"
    assert "Your key is ***" in on_disk(tmp_path / "inspect")
    left_out = {name for name, reply in zip(names, replies, strict=True) if "its words are left out" in reply.reason}
    assert left_out >= {"whole", "cut", "masked", "upper case", "page"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_the_key_is_in_no_exception(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    with FakeEndpoint(lambda request: error(f"Incorrect: {KEY}", status)) as endpoint:
        model = HostedModel(endpoint.spec, **quick())
        with pytest.raises(ModelError, match=rf"\({status}: its words are left out") as caught:
            model.ask(chats(9), SETTINGS)
    raised = caught.value
    assert raised.__cause__ is None
    assert raised.__context__ is None
    trace = traceback.TracebackException.from_exception(raised, capture_locals=True)
    assert not shows_key("".join(trace.format()))


@pytest.mark.parametrize("said", [f"bad key {KEY}", f"Authorization: Bearer {KEY[5:]}", "key sk-another"])
def test_errors_of_any_provider_are_told_without_keys(said: str) -> None:
    answer = fake.outputs(lambda text: RuntimeError(said) if text == "question 1" else "fine")
    model = HostedModel("inspect:mockllm/model", max_retries=0, model_args={"custom_outputs": answer, "api_key": KEY})
    replies: list[Reply] = model.ask(chats(3), SETTINGS)
    assert replies[1].reason == "RuntimeError: its words are left out, for they may quote a key"
    assert [reply.output is None for reply in replies] == [False, True, False]


def test_a_hosted_model_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    model = HostedModel("m@http://host/v1")
    for save in (pickle.dumps, copy.deepcopy):
        for thing in (model, HostedJudge(model, NumericPrompts("{answer}", "{answer}"))):
            with pytest.raises(TypeError, match="not saved"):
                save(thing)


def test_errors_on_opening_do_not_show_keys() -> None:
    for key in (KEY, f"Bearer {KEY[5:]}"):
        with pytest.raises(ConfigError, match="Inspect cannot open mockllm/model: ValueError") as caught:
            HostedModel("inspect:mockllm/model", model_args={"custom_outputs": SimpleNamespace(key=key)})
        assert not shows_key(str(caught.value))
        assert caught.value.__context__ is None
