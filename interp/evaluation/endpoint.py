"""Many requests at once to an OpenAI-compatible endpoint: what fails is asked again, what was answered is never lost.

What may pass (no connection, no answer in time, 408, 409, 425, 429, 5xx, a body that is no JSON) is asked again, with waits that double.
401, 403 and 404 raise `ModelError` at once: nothing will work. Any other refusal is the `Failure` of that one request.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from time import time
from typing import Any, TypeVar

from pydantic import Field

from interp.core.config import StepConfig
from interp.core.errors import ModelError
from interp.evaluation.keys import Secret, keep_out_of_logs, key_variables

T = TypeVar("T")
MAY_PASS = (408, 409, 425, 429)
TOLD = 200  # characters of a server's own words in a reason


class EndpointConfig(StepConfig):
    """How an endpoint is asked; nothing here changes what it answers."""

    concurrency: int = Field(default=16, ge=1)
    """Requests under way at once."""
    timeout: float = Field(default=120.0, gt=0.0)
    """Seconds without a sign of life until a request is given up and sent again."""
    max_retries: int = Field(default=5, ge=0)
    """How often a request that may still succeed is sent again."""
    backoff: float = Field(default=0.5, ge=0.0)
    """Seconds before the first repetition; each further wait is twice as long, less a random part of up to a half."""
    longest_wait: float = Field(default=60.0, ge=0.0)
    """Seconds that any wait has at most, also where the server asks for more (Retry-After)."""
    give_up_after: int = Field(default=5, ge=1)
    """So many requests in a row without an answer, repetitions and all, and the rest is not asked."""
    key_variable: str | None = None
    """Name of the environment variable that holds the key; by default PERSONASCOPE_API_KEY, for OpenAI itself OPENAI_API_KEY too."""


@dataclass(frozen=True)
class Failure:
    """A request without a result."""

    reason: str
    final: bool = False
    """False where asking again may help."""


@dataclass(frozen=True)
class Again:
    """An outcome that may pass; the server may say after how many seconds."""

    reason: str
    wait: float | None = None


@dataclass(frozen=True)
class _Fatal:
    """Why no request will work. Not an exception: one made where another is handled would carry that one's text along."""

    message: str


class _Run:
    """One list of requests: whether it goes on, and how many in a row were given up."""

    def __init__(self, most: int) -> None:
        self.halt, self.most, self.in_a_row = threading.Event(), most, 0
        self.verdict: str | None = None
        self.lock = threading.Lock()

    def answered(self) -> None:
        with self.lock:
            self.in_a_row = 0

    def unanswered(self, reason: str) -> None:
        with self.lock:
            self.in_a_row += 1
            if self.in_a_row >= self.most and self.verdict is None:
                self.verdict = f"not asked, the endpoint left {self.in_a_row} requests in a row unanswered: {reason}"
                self.halt.set()


class Endpoint:
    """The chat completions behind one URL."""

    def __init__(self, url: str, model: str, config: EndpointConfig | None = None) -> None:
        self.url, self.model, self.config = url, model, config or EndpointConfig()
        self.secret = Secret.from_environment(self.config.key_variable, url)
        self.dropped: set[str] = set()
        """Fields beyond OpenAI's own that the server refused; they are no longer sent."""
        self._told: set[str] = set()

    @cached_property
    def client(self) -> Any:
        """The client of the openai package; raises `ModelError` where that is missing."""
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ModelError(f"The package openai is missing, which asks {self.url}: pip install openai.") from error
        key = self.secret.reveal() or "none"  # the package wants one
        client = OpenAI(api_key=key, base_url=self.url, timeout=self.config.timeout, max_retries=0)
        keep_out_of_logs(self.secret)
        return client

    def ask(
        self,
        requests: Sequence[Mapping[str, Any]],
        read: Callable[[Any], T | Failure | Again],
        done: Callable[[int, T | Failure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[T | Failure]:
        """What `read` makes of the JSON that answers each request, in order.

        `done` gets each outcome as it arrives, in this thread; after an interrupt or an error it has had all that were there.
        """
        client, run = self.client, _Run(self.config.give_up_after)
        todo, finished = iter(list(enumerate(requests))), queue.SimpleQueue[tuple[int, Any]]()
        outcomes: dict[int, T | Failure] = {}

        def work() -> None:
            while not run.halt.is_set() or run.verdict:
                with run.lock:
                    index, request = next(todo, (-1, {}))
                if index < 0:
                    return
                try:
                    outcome: Any = self._patiently(client, request, read, run)
                except BaseException as error:  # not one of the endpoint's: raised where it is seen
                    outcome = error
                finished.put((index, outcome))

        def hand_over(index: int, outcome: T | Failure) -> None:
            outcomes[index] = outcome
            if done:
                done(index, outcome)
            if progress:
                progress(1)

        end: Any = None
        try:
            for _ in range(min(self.config.concurrency, len(requests))):
                threading.Thread(target=work, daemon=True).start()
            while end is None and len(outcomes) < len(requests):
                index, outcome = finished.get()
                self._tell_what_was_dropped()
                if isinstance(outcome, _Fatal | BaseException):
                    end = outcome
                else:
                    hand_over(index, outcome)
        except KeyboardInterrupt as interrupt:
            end = interrupt
        finally:
            run.verdict = None
            run.halt.set()
        while end is not None and not finished.empty():
            index, outcome = finished.get()
            if not isinstance(outcome, _Fatal | BaseException):
                hand_over(index, outcome)
        if isinstance(end, _Fatal):
            raise ModelError(end.message)
        if end is not None:
            raise end
        return [outcomes[index] for index in range(len(requests))]

    def _tell_what_was_dropped(self) -> None:
        for field in sorted(self.dropped - self._told):
            self._told.add(field)
            warnings.warn(f"{self.url} does not take {field}: it samples without.", UserWarning, stacklevel=4)

    def _patiently(self, client: Any, request: Mapping[str, Any], read: Callable[[Any], T | Failure | Again], run: _Run) -> Any:
        """One request with its repetitions."""
        tries = 0
        while not run.halt.is_set():
            outcome = self._once(client, request, read)
            if not isinstance(outcome, Again):
                run.answered()
                return outcome
            tries += 1
            if tries > self.config.max_retries:
                run.unanswered(outcome.reason)
                return Failure(f"{outcome.reason} (asked {tries} time{'s' if tries > 1 else ''})")
            wait = self.config.backoff * 2.0 ** min(tries - 1, 30) * random.uniform(0.5, 1.0)
            run.halt.wait(min(max(wait, outcome.wait or 0.0), self.config.longest_wait))
        return Failure(run.verdict or "interrupted")

    def _once(self, client: Any, request: Mapping[str, Any], read: Callable[[Any], T | Failure | Again]) -> T | Failure | Again | _Fatal:
        import openai

        extra = {name: value for name, value in request.get("extra_body", {}).items() if name not in self.dropped}
        try:
            raw = client.chat.completions.with_raw_response.create(model=self.model, **{**request, "extra_body": extra})
            text = raw.http_response.content.decode("utf-8", "replace")
        except openai.APITimeoutError:
            return Again(f"no answer within {self.config.timeout:g} s")
        except openai.APIConnectionError as error:
            return Again(f"no connection: {self._words(str(error.__cause__ or error))}")
        except openai.APIStatusError as error:
            told = f"{error.status_code}: {self._words(_message(error.body) or error.response.reason_phrase)}"
            if error.status_code in (400, 422):
                refused = {name for name in extra if name in told}
                self.dropped |= refused
                return self._once(client, request, read) if refused else Failure(f"refused ({told})", final=True)
            if error.status_code in (401, 403):
                variables = key_variables(self.config.key_variable, self.url)
                return _Fatal(f"{self.url} refuses the key ({told}): set {variables} to one that it takes.")
            if error.status_code == 404:
                return _Fatal(f"{self.url} does not serve '{self.model}' ({told}): check the model's name, and the URL up to its /v1.")
            if error.status_code in MAY_PASS or error.status_code >= 500:
                return Again(told, _retry_after(error.response.headers))
            return Failure(f"refused ({told})", final=True)
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return Again(f"the reply is not JSON: {self._words(text)}")
        return read(self.secret.remove(body))

    def _words(self, text: str) -> str:
        """A server's own words, on one line and short."""
        return self.secret.redact(" ".join(text[: 10 * TOLD].split()))[:TOLD]


def _message(body: Any) -> str:
    """The error text in an error's body."""
    if isinstance(body, Mapping):
        return str(body.get("message") or body.get("detail") or dict(body))
    return str(body or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110: a number or a date)."""
    told = headers.get("retry-after", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time())
    except (TypeError, ValueError):
        return None
