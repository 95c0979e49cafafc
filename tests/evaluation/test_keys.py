"""The key of an endpoint: where it comes from, and that it shows nowhere."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.keys import Secret
from interp.evaluation.served import ServedModel
from interp.models.chats import Chat
from tests.helpers.fake_endpoint import QUICK, SAMPLING, FakeEndpoint, Reply, chats, completion, echo, error, quick, without_keys

KEY = "sk-proj-Qx7vT2mWz9LpR4nK8dYb"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


def test_the_key_comes_from_the_environment_ours_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEndpoint(echo) as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs-1234")
        ServedModel(endpoint.spec, QUICK).answers(chats(1), SAMPLING, 0)
        assert endpoint.requests[-1].key == "none"  # OpenAI's key goes to OpenAI alone
        for variable, key in (("PERSONASCOPE_API_KEY", f" {KEY}\n"), ("MINE", "mine-1234")):
            monkeypatch.setenv(variable, key)
            config = quick(key_variable="MINE" if variable == "MINE" else None)
            ServedModel(endpoint.spec, config).answers(chats(1), SAMPLING, 0)
            assert endpoint.requests[-1].key == key.strip()
    monkeypatch.delenv("PERSONASCOPE_API_KEY")
    for host, sent in (("api.openai.com", True), ("openai.com.evil.org", False), ("notopenai.com", False)):
        assert bool(Secret.from_environment(None, f"https://{host}/v1")) is sent
    with pytest.raises(ConfigError, match="not set") as caught:
        ServedModel("m@http://host/v1", quick(key_variable=KEY))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-two\nlines-abcdef", "sk-blank abcdef", "sk-umlaut-äbcdef"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", key)
    with pytest.raises(ConfigError, match="PERSONASCOPE_API_KEY holds blanks") as caught:
        ServedModel("m@http://host/v1")
    assert "bcdef" not in str(caught.value)


def shows_key(text: str) -> bool:
    """Whether five letters of the key stand in `text`, wherever they come from."""
    return any(KEY[i : i + 5].lower() in text.lower() for i in range(len(KEY) - 4))


MASKED = f"{KEY[:7]}****************{KEY[-4:]}"
ECHOES: dict[str, Callable[[], Reply]] = {
    "whole": lambda: error(f"Incorrect API key provided: {KEY}. You can find your key at …", 500),
    "in a header and the status line": lambda: Reply({}, 500, {"x_echo": f"Bearer {KEY}", "x_request_id": KEY}, phrase=f"Bad {KEY}"),
    "cut": lambda: error(f"Incorrect API key provided: {KEY[:12]}... and {KEY[-7:]}", 429),
    "masked": lambda: error(f"Incorrect API key provided: {MASKED}.", 400),
    "upper case": lambda: error(f"BAD {KEY.upper()}", 422),
    "page": lambda: Reply(f"<p>{KEY}</p>".encode(), 502, {"content_type": "text/html"}),
    "no JSON": lambda: Reply(f"token {KEY}".encode()),
    "far behind": lambda: Reply(b"x" * 190 + KEY.encode()),
    "the answer": lambda: Reply(completion(f"Your key is {KEY}, isn't it?", finish_reason=KEY)),
    "instead of an answer": lambda: Reply(completion(None, finish_reason=KEY)),
    "escaped": lambda: Reply(json.dumps(completion(f"It is {KEY}")).replace(KEY, KEY.replace("Q", "\\u0051")).encode()),
    "a redirect": lambda: Reply({}, 302, {"location": f"http://127.0.0.1:9/{KEY}"}),
    "cut body": lambda: Reply(completion(KEY), cut=9, headers={"x_echo": KEY}),
    "closed socket": lambda: Reply(drop=True),
}


def test_the_key_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    shown: list[str] = []

    def show(thing: Any) -> None:
        shown.extend((repr(thing), str(thing)))

    names = list(ECHOES)
    asked = [Chat.ask(name) for name in names]
    with caplog.at_level(logging.DEBUG), FakeEndpoint(lambda request: ECHOES[request.prompt]()) as endpoint:
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            caplog.set_level(logging.DEBUG, name)
        served = ServedModel(endpoint.spec, quick(give_up_after=99))
        answers = served.answers(asked, SAMPLING, 0, done=lambda index, answer: show(answer))
        tokens = served.next_tokens(asked, 3, done=lambda index, found: show(found))
        assert all(request.key == KEY for request in endpoint.requests)
    for thing in (answers, [asdict(answer) for answer in answers], tokens, served, served.endpoint, vars(served), vars(served.endpoint)):
        show(thing)
    show(served.endpoint.secret)
    show(served.identity)
    show(served.endpoint.config.model_dump_json())
    captured = capfd.readouterr()
    logged = [caplog.text, *(str(vars(record)) for record in caplog.records)]
    assert len(caplog.records) > 50
    for text in [*shown, *logged, captured.out, captured.err]:
        assert not shows_key(text), text
    assert answers[names.index("the answer")].text == "Your key is ***, isn't it?"
    assert answers[names.index("escaped")].text == "It is ***"
    assert MASKED[-8:] not in answers[names.index("masked")].reason
    assert all("***" in answers[names.index(name)].reason for name in ("whole", "cut", "masked", "upper case", "page", "no JSON"))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_the_key_is_in_no_exception(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    words = r"\(4\d\d: Incorrect: \*\*\*\)"
    with FakeEndpoint(lambda request: error(f"Incorrect: {KEY}", status)) as endpoint, pytest.raises(ModelError, match=words) as caught:
        ServedModel(endpoint.spec, QUICK).answers(chats(9), SAMPLING, 0)
    raised = caught.value
    assert raised.__cause__ is None
    assert raised.__context__ is None
    told = "".join(traceback.TracebackException.from_exception(raised, capture_locals=True).format())
    assert not shows_key(told)


def test_a_secret_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)
    served = ServedModel("m@http://host/v1")
    for save in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not saved"):
            save(served)


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(KEYS, st.text(max_size=30), st.text(max_size=30), st.integers(0, 30), st.integers(4, 30))
def test_redaction_leaves_no_four_letters_of_the_key(key: str, before: str, after: str, start: int, length: int) -> None:
    secret = Secret(key)
    for text in (before + key + after, before + key[start : start + length] + after):
        found = secret.redact(text).replace("***", "\0")
        size = min(4, len(key))
        assert not any(key[i : i + size] in found for i in range(len(key) - size + 1) if "\0" not in key)


def test_what_looks_like_a_key_is_redacted_whosever_it_is() -> None:
    found = Secret("").redact("no: sk-other-1234, Bearer abc123 and Qx********Yb. The rest of it stays.")
    assert found == "no: *** *** and *** The rest of it stays."
