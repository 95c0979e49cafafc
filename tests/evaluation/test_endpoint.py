"""Endpoints that fail: what is asked again, what is given up, and that nothing answered is lost."""

from __future__ import annotations

import email.utils
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from interp.core.errors import ModelError
from interp.evaluation.endpoint import _retry_after
from interp.evaluation.served import Answered, ServedModel
from interp.models.chats import Chat
from tests.helpers.fake_endpoint import QUICK, SAMPLING, FakeEndpoint, Reply, Request, chats, completion, echo, error, quick, without_keys


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


PASSING: dict[str, tuple[Callable[[], Reply], str]] = {
    "hangs": (lambda: Reply(hang=True), r"no answer within 0\.2 s"),
    "garbage": (lambda: Reply(b"\xff\xfe\x00<html>\x93"), "not JSON"),
    "half JSON": (lambda: Reply(b'{"choices": [{"mess'), "not JSON"),
    "deep JSON": (lambda: Reply(b"[" * 100_000), "not JSON"),
    "a web page": (lambda: Reply(b"<html>log in</html>", headers={"content_type": "text/html"}), "not JSON: <html>log in"),
    "nothing": (lambda: Reply(b""), "not JSON"),
    "another JSON": (lambda: Reply(["choices"]), "no choices"),
    "no choices": (lambda: Reply({"choices": []}), "no choices"),
    "broken compression": (lambda: Reply(b"no gzip", headers={"content_encoding": "gzip"}), "no connection"),
    "cut body": (lambda: Reply(completion("lost"), cut=50), "no connection"),
    "closed socket": (lambda: Reply(drop=True), "no connection"),
    "429": (lambda: error("slow down", 429, retry_after="0.01"), "429: slow down"),
    "500": (lambda: error("boom", 500), "500: boom"),
    "502 page": (lambda: Reply(b"<h1>Bad gateway</h1>", 502), "502: <h1>Bad"),
    "503 without a word": (lambda: Reply(b"", 503), "503: Service Unavailable"),
    "408": (lambda: error("too slow", 408), "408: too slow"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again_and_then_answers(name: str) -> None:
    fault = PASSING[name][0]
    with FakeEndpoint(lambda request: fault() if request.prompt == "question 1" and request.tries == 1 else echo(request)) as endpoint:
        found = ServedModel(endpoint.spec, QUICK).answers(chats(3), SAMPLING, 0)
    assert [answer.text for answer in found] == ["to question 0", "to question 1", "to question 2"]
    assert sorted(endpoint.prompts()) == ["question 0", "question 1", "question 1", "question 2"]


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_none_with_the_reason_and_the_rest_is_answered(name: str) -> None:
    fault, words = PASSING[name]
    handed: dict[int, Answered] = {}
    with FakeEndpoint(lambda request: fault() if request.prompt == "question 1" else echo(request)) as endpoint:
        found = ServedModel(endpoint.spec, quick(max_retries=1)).answers(chats(3), SAMPLING, 0, done=handed.__setitem__)
    assert [answer.text for answer in found] == ["to question 0", None, "to question 2"]
    assert handed == dict(enumerate(found))
    assert endpoint.prompts().count("question 1") == 2
    assert re.search(words, found[1].reason)
    assert found[1].reason.endswith("(asked 2 times)")
    assert not found[1].final


def test_waits_double_and_retry_after_is_kept_but_capped() -> None:
    arrived: dict[str, list[float]] = {}

    def script(request: Request) -> Reply:
        arrived.setdefault(request.prompt, []).append(time.monotonic())
        wait = {"capped": "3600", "kept": "0.08", "words": "soon"}.get(request.prompt)
        return error("later", 429, **({"retry_after": wait} if wait else {})) if request.tries < 4 else echo(request)

    with FakeEndpoint(script) as endpoint:
        served = ServedModel(endpoint.spec, quick(max_retries=3, backoff=0.02, longest_wait=0.12))
        asked = [Chat.ask(name) for name in ("capped", "kept", "words", "none")]
        assert all(answer.text for answer in served.answers(asked, SAMPLING, 0))
    waits = {name: [b - a for a, b in itertools.pairwise(times)] for name, times in arrived.items()}
    assert min(waits["kept"]) >= 0.08
    assert min(waits["capped"]) >= 0.12
    assert max(waits["capped"]) < 1.0
    for name in ("words", "none"):
        assert all(wait >= least for wait, least in zip(waits[name], (0.01, 0.02, 0.04), strict=True))


def test_retry_after_may_be_a_date() -> None:
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (_retry_after({"retry-after": at}) or 0) < 31
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert _retry_after({"retry-after": "-3"}) == 0
    assert _retry_after({"retry-after": "tomorrow"}) is _retry_after({}) is None


@pytest.mark.parametrize("status", [400, 409 + 4, 422])
def test_a_refused_request_is_not_repeated_and_stops_no_other(status: int) -> None:
    refusal = error("the prompt is too long", status)
    with FakeEndpoint(lambda request: refusal if request.prompt == "question 0" else echo(request)) as endpoint:
        found = ServedModel(endpoint.spec, QUICK).answers(chats(3), SAMPLING, 0)
    assert found[0] == Answered(None, f"refused ({status}: the prompt is too long)", final=True)
    assert [answer.text for answer in found[1:]] == ["to question 1", "to question 2"]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (403, "refuses the key"), (404, "does not serve 'org/model'")])
def test_what_will_never_work_is_one_error_at_once(status: int, words: str) -> None:
    handed: dict[int, Answered] = {}

    def script(request: Request) -> Reply:
        return echo(request) if request.n < 3 else error("no", status)

    with FakeEndpoint(script) as endpoint, pytest.raises(ModelError, match=words) as caught:
        ServedModel(endpoint.spec, quick(concurrency=1)).answers(chats(50), SAMPLING, 0, done=handed.__setitem__)
    assert f"({status}: no)" in str(caught.value)
    assert len(endpoint.requests) == 4
    assert handed == {i: Answered(f"to question {i}") for i in range(3)}


def test_an_endpoint_that_dies_half_way_loses_nothing_and_takes_no_time() -> None:
    handed: dict[int, Answered] = {}
    started = time.monotonic()
    with FakeEndpoint(lambda request: echo(request) if request.n < 20 else Reply(die=True)) as endpoint:
        served = ServedModel(endpoint.spec, quick(give_up_after=3, backoff=0.01))
        found = served.answers(chats(2000), SAMPLING, 0, done=handed.__setitem__)
        answered = {request.prompt for request in endpoint.requests[:20]}
    assert time.monotonic() - started < 3.0
    assert handed == dict(enumerate(found))
    assert {f"question {i}" for i, answer in enumerate(found) if answer.text} == answered
    unanswered = [answer for answer in found if answer.text is None]
    assert len(unanswered) == 1980
    assert all("no connection" in answer.reason and not answer.final for answer in unanswered)
    given_up = sum("(asked 3 times)" in answer.reason for answer in unanswered)
    assert 3 <= given_up <= 3 + QUICK.concurrency
    assert sum("left 3 requests in a row unanswered" in answer.reason for answer in unanswered) == 1980 - given_up


def test_an_endpoint_that_comes_back_is_asked_again_in_the_next_call() -> None:
    with FakeEndpoint(lambda request: error("starting", 503) if request.n < 6 else echo(request)) as endpoint:
        served = ServedModel(endpoint.spec, quick(give_up_after=2, concurrency=1))
        first = served.answers(chats(5), SAMPLING, 0)
        second = served.answers(chats(5), SAMPLING, 0)
    assert [answer.text for answer in first] == [None] * 5
    assert [answer.text for answer in second] == [f"to question {i}" for i in range(5)]


def test_failures_between_answers_are_no_reason_to_give_up() -> None:
    odd = {f"question {i}" for i in range(1, 12, 2)}
    with FakeEndpoint(lambda request: error("boom", 500) if request.prompt in odd else echo(request)) as endpoint:
        found = ServedModel(endpoint.spec, quick(give_up_after=2, concurrency=1)).answers(chats(12), SAMPLING, 0)
    assert [answer.text is None for answer in found] == [False, True] * 6
    assert not any("in a row" in answer.reason for answer in found)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_at_once_and_keeps_what_was_answered() -> None:
    handed: dict[int, Answered] = {}

    def script(request: Request) -> Reply:
        if request.n == 5:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return echo(request) if request.n < 5 else Reply(hang=True)

    with FakeEndpoint(script) as endpoint:
        served = ServedModel(endpoint.spec, quick(timeout=30.0))
        assert served.endpoint.client  # what it imports takes its time
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            served.answers(chats(100), SAMPLING, 0, done=handed.__setitem__)
        assert time.monotonic() - started < 5.0  # not the 30 s of the requests that hang
        seen = len(endpoint.requests)
    assert sorted(answer.text or "" for answer in handed.values()) == sorted(f"to {prompt}" for prompt in endpoint.prompts()[:5])
    assert seen <= 5 + QUICK.concurrency


def test_what_has_arrived_when_an_interrupt_comes_is_handed_over() -> None:
    handed: list[int] = []

    def keep(index: int, answer: Answered) -> None:
        handed.append(index)
        if len(handed) == 1:
            time.sleep(0.2)  # the others arrive meanwhile
            raise KeyboardInterrupt

    with FakeEndpoint(echo) as endpoint, pytest.raises(KeyboardInterrupt):
        ServedModel(endpoint.spec, QUICK).answers(chats(4), SAMPLING, 0, done=keep)
    assert sorted(handed) == [0, 1, 2, 3]


def test_an_error_of_the_caller_stops_the_requests() -> None:
    def full(index: int, answer: Answered) -> None:
        raise OSError("disk full")

    with FakeEndpoint(echo) as endpoint:
        with pytest.raises(OSError, match="disk full"):
            ServedModel(endpoint.spec, QUICK).answers(chats(500), SAMPLING, 0, done=full)
        time.sleep(0.05)
        assert len(endpoint.requests) < 100
        with pytest.raises(ZeroDivisionError):
            ServedModel(endpoint.spec, QUICK).endpoint.ask([{"messages": [{"role": "user", "content": "?"}]}] * 3, lambda body: 1 // 0)


def test_so_many_requests_are_under_way_at_once_and_no_more() -> None:
    under_way: list[int] = [0]
    most, lock = [0], threading.Lock()

    def script(request: Request) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        with lock:
            under_way[0] -= 1
        return echo(request)

    with FakeEndpoint(script) as endpoint:
        ServedModel(endpoint.spec, quick(concurrency=3)).answers(chats(24), SAMPLING, 0)
    assert most == [3]
