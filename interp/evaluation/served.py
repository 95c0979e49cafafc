"""A model behind any OpenAI-compatible endpoint (vLLM, OpenAI, …): its answers, and its likeliest next tokens."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from interp.core.errors import ConfigError
from interp.core.fingerprints import content_key
from interp.evaluation.endpoint import Again, Endpoint, EndpointConfig, Failure
from interp.models.chats import Chat

if TYPE_CHECKING:
    from interp.models.sampling import SamplingConfig

FORM = "MODEL@http://HOST:PORT/v1"
SLACK = 0.01
"""Nats by which rounding may lift a log-probability over 0."""


@dataclass(frozen=True)
class Answered:
    """An answer, or why there is none."""

    text: str | None
    reason: str = ""
    final: bool = True
    """False where asking again may help."""


@dataclass(frozen=True)
class TopTokens:
    """The greedy reply token by token, and what else was likely at each place."""

    tokens: tuple[str, ...]
    top: tuple[tuple[tuple[str, float], ...], ...]
    """For each token of the reply the likeliest tokens there with their log-probabilities (nats), the reply's own among them."""


def parse_served(spec: str) -> tuple[str, str] | None:
    """Model and URL of MODEL@http://HOST:PORT/v1; None where there is no such URL behind an @.

    Raises `ConfigError` for a URL that cannot be asked, or that holds a password or a query; it does not repeat them.
    """
    match = re.fullmatch(r"(.*)@(https?://.*)", spec.strip(), re.IGNORECASE | re.DOTALL)
    if match is None:
        return None
    model, url = match[1].strip(), match[2].rstrip("/")
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not re.search(r"\s", url)
    except ValueError:
        parts, usable = urlsplit("http://"), False
    if "@" in parts.netloc or "?" in url or "#" in url or "://" in model:
        raise ConfigError(
            f"The URL of a served model may hold neither user, password nor query, which would be saved with results: write {FORM} "
            "and put the key into PERSONASCOPE_API_KEY."
        )
    if not usable:
        raise ConfigError(f"The URL of a served model has no valid host and port: write {FORM}.")
    if not model:
        raise ConfigError(f"There is no model before the @ of @{url}: write {FORM}.")
    return model, url


class ServedModel:
    """A model that is asked over HTTP.

    What cannot be had is None, or a `Failure`, with the reason; `ModelError` is raised where nothing will work (wrong key, no such
    model). Every method calls `done(index, result)` in the caller's thread as results arrive, in any order, so that they can be kept.
    """

    def __init__(self, spec: str, config: EndpointConfig | None = None) -> None:
        """`spec` is MODEL@http://HOST:PORT/v1; raises `ConfigError`. The key comes from the environment (`EndpointConfig`)."""
        parsed = parse_served(spec)
        if parsed is None:
            raise ConfigError(f"A served model is written {FORM}; there is no @http:// or @https:// in what was given.")
        self.model, self.url = parsed
        self.identity = content_key(["served", self.model, self.url])
        """Content key of model and URL: the endpoint tells no more of what it serves."""
        self.endpoint = Endpoint(self.url, self.model, config)

    def __repr__(self) -> str:
        return f"ServedModel('{self.model}@{self.url}')"

    @property
    def dropped(self) -> frozenset[str]:
        """Settings of sampling that the server refused so far, and samples without."""
        return frozenset(self.endpoint.dropped)

    def answers(
        self,
        chats: Sequence[Chat],
        sampling: SamplingConfig,
        seed: int,
        progress: Callable[[int], None] | None = None,
        streams: Sequence[int] | None = None,
        done: Callable[[int, Answered], None] | None = None,
    ) -> list[Answered]:
        """An answer to each prompt, in order, sampled by the server.

        Chat i is sent the seed `seed` plus a hash of `streams[i]`, its own place by default, so that equal chats are answered
        differently and the chats of one call may be asked in several. Whether the server keeps to it is up to the server.
        """
        streams = range(len(chats)) if streams is None else streams
        if len(streams) != len(chats):
            raise ConfigError(f"There are {len(chats)} chats and {len(streams)} streams of random numbers. Give one stream a chat.")
        settings: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if (top_p := getattr(sampling, "top_p", 1.0)) < 1.0:
            settings["top_p"] = top_p
        if sampling.min_p > 0.0 and sampling.temperature > 0.0:
            settings["extra_body"] = {"min_p": sampling.min_p}
        requests = [
            {"messages": _messages(chat), "seed": row_seed(seed, stream), **settings} for chat, stream in zip(chats, streams, strict=True)
        ]
        hand_on = (lambda index, outcome: done(index, _answered(outcome))) if done else None
        return [_answered(outcome) for outcome in self.endpoint.ask(requests, _read_text, hand_on, progress)]

    def next_tokens(
        self,
        chats: Sequence[Chat],
        n_tokens: int,
        top: int = 20,
        progress: Callable[[int], None] | None = None,
        done: Callable[[int, TopTokens | Failure], None] | None = None,
    ) -> list[TopTokens | Failure]:
        """The first `n_tokens` tokens of the greedy reply to each prompt, with the `top` likeliest at each."""
        settings = {"max_tokens": n_tokens, "temperature": 0.0, "logprobs": True, "top_logprobs": top}
        return self.endpoint.ask([{"messages": _messages(chat), **settings} for chat in chats], _read_tokens, done, progress)


def row_seed(seed: int, stream: int) -> int:
    """The seed of one request, below 2^31."""
    return (seed + int.from_bytes(hashlib.sha256(str(stream).encode()).digest()[:4], "big")) % 2**31


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": message.role, "content": _sound(message.content)} for message in chat.prompt.messages]


def _sound(text: str) -> str:
    """Text without half surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _answered(outcome: str | Failure) -> Answered:
    return Answered(None, outcome.reason, outcome.final) if isinstance(outcome, Failure) else Answered(outcome)


def _first_choice(body: Any) -> Mapping[str, Any] | Again:
    """The first choice of a chat completion."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return Again("the reply is not a chat completion: it has no choices")
    return choices[0]


def _read_text(body: Any) -> str | Failure | Again:
    choice = _first_choice(body)
    if isinstance(choice, Again):
        return choice
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(text, str):
        why = choice.get("finish_reason")
        return Failure(f"the reply has no text (finish reason: {_sound(str(why))[:40]})", final=why in ("content_filter", "length"))
    return _sound(text).strip()


def _read_tokens(body: Any) -> TopTokens | Failure | Again:
    choice = _first_choice(body)
    if isinstance(choice, Again):
        return choice
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list) or not content:
        return Failure("the reply has no logprobs: the judge must be served with top_logprobs")
    tokens, tops = [], []
    for place in content:
        own = _token(place)
        listed = place.get("top_logprobs") if isinstance(place, Mapping) else None
        if not isinstance(listed, list) or not listed:
            return Failure("the reply has no top_logprobs: the judge must be served with them")
        top = [_token(entry) for entry in listed]
        if own is None or None in top or sum(math.exp(entry[1]) for entry in top if entry) > 1.0 + SLACK:
            return Failure("the reply's logprobs are no log-probabilities")
        likeliest = [entry for entry in top if entry]
        tokens.append(own[0])
        tops.append(tuple(likeliest if own[0] in dict(likeliest) else [*likeliest, own]))
    return TopTokens(tuple(tokens), tuple(tops))


def _token(entry: Any) -> tuple[str, float] | None:
    """Text and log-probability; None for anything else, NaN included."""
    if not isinstance(entry, Mapping):
        return None
    text, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(text, str) or not isinstance(logprob, int | float) or not -1e9 <= logprob <= SLACK:
        return None
    return text, float(logprob)
