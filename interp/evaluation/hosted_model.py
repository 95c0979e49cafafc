"""Models behind an API or a server, asked through Inspect (inspect-ai): its providers, its retries, its cache of replies.

A hosted model is named inspect:PROVIDER/MODEL as Inspect names it, such as inspect:openai/gpt-4o, or MODEL@http://HOST:PORT/v1 for any
OpenAI-compatible server (vLLM, llama.cpp, …). Keys come from the environment: the provider's own variable, PERSONASCOPE_API_KEY for a URL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from interp.core.errors import ConfigError, ModelError, PersonascopeError
from interp.core.fingerprints import content_key
from interp.models.chats import Chat

if TYPE_CHECKING:
    from inspect_ai.model import ModelOutput

PREFIX, SERVER = "inspect:", "openai-api/personascope/"
FORM = "MODEL@http://HOST:PORT/v1"
GIVE_UP_AFTER = 5
"""Calls in a row without a reply, retries and all, after which the rest is not asked."""
OPTIONAL = ("min_p", "top_logprobs", "logprobs", "seed", "temperature", "top_p")
"""Settings that a server may refuse, and is then asked without."""
MAX_TOKENS, COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
"""The limit of a reply, and its name with models that think; Inspect knows OpenAI's by their names, not those of another deployment."""
TAKE_MIN_P = ("openai-api", "vllm", "sglang")
"""Inspect's providers that send what no other has."""
LOGPROBS = {"logprobs", "top_logprobs"}
LONGEST = 200
"""Letters of a server's own words in a reason."""
NO_KEY = "none"
QUIET = ("inspect_ai", "openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2")
"""Libraries whose debug logs quote replies and headers."""
KEY_LIKE = re.compile(r"bearer\s+\S|\bsk-\S|\*{3}", re.IGNORECASE)
"""How texts of others show keys, masked ones too."""
NOT_A_SETTING = re.compile(r"(^|_)(key|token|secret|password)s?$", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What a hosted model replied, or why there is no reply."""

    output: ModelOutput | None
    reason: str = ""
    final: bool = True
    """False where asking again may help."""


def parse_hosted(spec: str) -> tuple[str, str | None] | None:
    """Inspect's name of a hosted model and the URL of its server, if given; None for models that are not hosted.

    Raises `ConfigError` for a URL that cannot be asked, or that holds a password or a query; it does not repeat them.
    """
    spec = spec.strip()
    match = re.fullmatch(r"(.*)@(https?://.*)", spec, re.IGNORECASE | re.DOTALL)
    if match is None:
        return (spec.removeprefix(PREFIX), None) if spec.startswith(PREFIX) else None
    model, url = match[1].strip(), match[2].rstrip("/")
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
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
    return model.removeprefix(PREFIX) if model.startswith(PREFIX) else SERVER + model, url


class HostedModel:
    """A model that Inspect asks. The key is held by Inspect's provider alone; nothing here shows or saves it."""

    def __init__(
        self, spec: str, *, max_connections: int = 16, max_retries: int = 5, timeout: int = 120, model_args: Mapping[str, Any] | None = None
    ) -> None:
        """`timeout`: seconds of one attempt; `model_args` go to Inspect's `get_model`.

        Raises `ConfigError` where Inspect is not installed or cannot open the model.
        """
        parsed = parse_hosted(spec)
        if parsed is None:
            raise ConfigError(f"A hosted model is written inspect:PROVIDER/MODEL or {FORM}, not '{spec}'.")
        if find_spec("inspect_ai") is None:
            raise ConfigError("Hosted models need inspect-ai, which is not installed. Run: pip install 'personascope[judges]'")
        if max_connections < 1:
            raise ConfigError(f"max_connections is {max_connections}: give at least 1.")
        self.source, self.url = parsed
        self.name = spec.strip().rstrip("/")
        self.dropped = set() if self.source.partition("/")[0] in TAKE_MIN_P else {"min_p"}
        """Settings that the server refuses or Inspect cannot send it, and that it is asked without."""
        self._reported: set[str] = set()
        self._limit = MAX_TOKENS
        self.max_connections = max_connections
        self.limits = {"max_connections": max_connections, "max_retries": max_retries, "attempt_timeout": timeout}
        for library in QUIET:
            logging.getLogger(library).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", "Pydantic serializer warnings")  # they quote replies that are garbage
        self._model, failure = _run(self._open(dict(model_args or {}))).result()
        if failure:
            raise ConfigError(f"Inspect cannot open {self.source}: {failure}. Correct that, or name another model.")
        if not re.fullmatch(r"[!-~]*", self._key()):  # a client's error would quote it
            raise ConfigError(f"The key of {self.source} holds blanks or letters that no key has: set its environment variable again.")
        settings = {name: value for name, value in (model_args or {}).items() if not NOT_A_SETTING.search(name)}
        self._settings = json.dumps(settings, sort_keys=True, default=lambda value: type(value).__name__)

    def __repr__(self) -> str:
        return f"HostedModel('{self.name}')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a hosted model is not saved: Inspect's provider holds its key")

    @cached_property
    def identity(self) -> str:
        """Content key of name, URL and settings, never of a key: a server tells no more of what it serves."""
        return content_key(["hosted", self.source, self._model.api.base_url, self._settings])

    def ask(
        self,
        chats: Sequence[Chat],
        settings: Mapping[str, Any],
        seeds: Sequence[int] | None = None,
        progress: Callable[[int], object] | None = None,
        scope: str = "",
    ) -> list[Reply]:
        """A reply to each chat's prompt, in order; `progress` is called with 1 for each that arrives.

        `settings` are those of Inspect's `GenerateConfig`, `seeds` one for each chat. Inspect retries what may pass, and keeps replies on
        disk for a week: the same call with the same `scope` is not asked again. Raises `ModelError` where no call will work: the key is
        refused, or there is no such model.
        """
        sent = [{**settings, "seed": seed} for seed in seeds] if seeds else [dict(settings)] * len(chats)
        asking = _run(self._ask_all(list(zip(chats, sent, strict=True)), progress, scope))
        try:
            replies: list[Reply] = asking.result()
            return replies
        finally:
            asking.cancel()  # after an interrupt nothing more is asked
            for field in sorted((self.dropped & {*settings, "seed"}) - self._reported):
                self._reported.add(field)
                warnings.warn(f"{self.name} does not take {field}: it is asked without.", UserWarning, stacklevel=3)

    async def _open(self, model_args: dict[str, Any]) -> tuple[Any, str]:
        """Inspect's model, made in the event loop that its connections will belong to; or why it cannot be."""
        from inspect_ai.model import get_model

        if self.source.startswith(SERVER) and "api_key" not in model_args:
            model_args["api_key"] = os.environ.get("PERSONASCOPE_API_KEY", "").strip() or NO_KEY  # the client wants one
        try:
            model = get_model(self.source, base_url=self.url, memoize=False, **model_args)
        except PersonascopeError:
            raise
        except Exception as error:  # every provider has its own
            text = re.sub(r"\[/?\w+\]", "", " ".join(str(error).split())).removeprefix("ERROR: ").rstrip(".")
            return None, type(error).__name__ if KEY_LIKE.search(text) else text
        self._guard(model.api)
        return model, ""

    def _guard(self, api: Any) -> None:
        """Have garbage asked for again, and a key that a server echoes left out, before Inspect keeps a reply."""
        generate, should_retry = api.generate, api.should_retry

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            result = await generate(*args, **kwargs)
            output = result[0] if isinstance(result, tuple) else result
            if isinstance(output, Exception):
                return result
            if output.empty:
                raise ValueError("the reply is not a chat completion: it has no choices")
            text = json.dumps(output.model_dump(), default=str)
            return output if (clean := self._without_key(text)) == text else type(output).model_validate(json.loads(clean))

        api.generate = guarded
        api.should_retry = lambda error: (
            should_retry(error) or (_status(error) is None and isinstance(error, Exception) and not isinstance(error, PersonascopeError))
        )

    async def _ask_all(
        self, calls: Sequence[tuple[Chat, dict[str, Any]]], progress: Callable[[int], object] | None, scope: str
    ) -> list[Reply]:
        free, in_a_row = asyncio.Semaphore(self.max_connections), 0

        async def ask(chat: Chat, settings: dict[str, Any]) -> Reply:
            nonlocal in_a_row
            async with free:
                if in_a_row >= GIVE_UP_AFTER:
                    reply = Reply(None, f"not asked, {in_a_row} calls in a row had failed", False)
                else:
                    reply = await self._ask(chat, settings, scope)
                    in_a_row = 0 if reply.final else in_a_row + 1
            if progress:
                progress(1)
            return reply

        tasks = [asyncio.ensure_future(ask(*call)) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, chat: Chat, settings: dict[str, Any], scope: str) -> Reply:
        from inspect_ai.model import CachePolicy, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig

        kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
        messages = [kinds[m.role](content=sound(m.content)) for m in chat.prompt.messages]
        sent = {name: value for name, value in settings.items() if name not in self.dropped}
        extra = {"min_p": sent.pop("min_p")} if "min_p" in sent else {}
        if self._limit == COMPLETION_TOKENS and MAX_TOKENS in sent:
            extra[COMPLETION_TOKENS] = sent.pop(MAX_TOKENS)
        config = GenerateConfig(**sent, **({"extra_body": extra} if extra else {}), **self.limits)
        kept = CachePolicy(scopes={"scope": scope, "seed": str(settings.get("seed"))})  # samples differ where no seed is sent, too
        try:
            return Reply(await self._model.generate(messages, config=config, cache=kept))
        except Exception as error:  # every provider has its own
            status, failure = self._failure(error)
            ours = error if isinstance(error, PersonascopeError) else None
        if failure.final and MAX_TOKENS in sent and COMPLETION_TOKENS in failure.reason:
            self._limit = COMPLETION_TOKENS
            return await self._ask(chat, settings, scope)
        if refused := {name for name in OPTIONAL if failure.final and name in {**sent, **extra} and name in failure.reason}:
            self.dropped |= refused | (LOGPROBS if refused & LOGPROBS else set())
            return await self._ask(chat, settings, scope)
        if ours:
            raise ours
        if status in (401, 403, 404):  # raised here, since an error raised while another is handled carries that one, and the key with it
            raise ModelError(f"{self.source} refuses all calls ({failure.reason}): check the model's name, its URL and its key.")
        return failure

    def _failure(self, error: Any) -> tuple[int | None, Reply]:
        """HTTP status of a call that failed, and its reason: the server's own words, unless they quote a key."""
        attempt = getattr(error, "last_attempt", None)  # Inspect gave up
        cause = (attempt.exception() if attempt is not None else None) or error
        cause = cause.__cause__ if hasattr(cause, "provider_message") and cause.__cause__ else cause  # without the request
        body = getattr(cause, "body", None)
        said = (body.get("message") or body.get("detail") or body) if isinstance(body, Mapping) else body or cause
        words = sound(" ".join(str(said)[: 10 * LONGEST].split())[:LONGEST])
        if KEY_LIKE.search(words) or self._quotes_key(words):
            words = "its words are left out, for they may quote a key"
        tries = f" (asked {attempt.attempt_number} times)" if attempt is not None and attempt.attempt_number > 1 else ""
        status = _status(cause)
        return status, Reply(None, f"{status or type(cause).__name__}: {words}{tries}", final=attempt is None)

    def _key(self) -> str:
        return str(getattr(self._model.api, "api_key", None) or "")

    def _quotes_key(self, text: str) -> bool:
        """Whether four letters of the key stand together in `text`."""
        text, key = text.lower(), self._key().lower()
        return any(key[i : i + 4] in text for i in range(len(key) - 3)) and key != NO_KEY

    def _without_key(self, text: str) -> str:
        """JSON without the whole key; one of fewer than eight letters is a dummy, and may be a word of an answer."""
        return text.replace(json.dumps(self._key())[1:-1], "***") if len(self._key()) >= 8 else text


def sound(text: str) -> str:
    """Text without half surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _status(error: Any) -> int | None:
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: a notebook's is taken already, and connections do not survive their loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="hosted models").start()
    return loop


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, _loop())
