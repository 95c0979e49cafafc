"""An OpenAI-compatible endpoint in a thread that does as its script says: answers, hangs, sends garbage, refuses, dies."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage
from tenacity import wait_fixed

from interp.models.chats import Chat
from interp.models.sampling import SamplingConfig


@dataclass
class Request:
    """What came in."""

    n: int
    """Its number among all requests."""
    tries: int
    """How often the same prompt has come, this time included."""
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def key(self) -> str:
        return self.headers["authorization"].removeprefix("Bearer ")


@dataclass
class Reply:
    """What goes out. `body` is JSON, or bytes as they are."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    phrase: str | None = None
    hang: bool = False
    """Say nothing until the client is gone."""
    cut: int = 0
    """Bytes promised and not sent."""
    drop: bool = False
    """Close the connection without a word."""
    die: bool = False
    """Drop it, and the port with it."""


def completion(text: str | None, **choice: Any) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}


def with_logprobs(*places: dict[str, float]) -> dict[str, Any]:
    """A greedy reply whose tokens have these probabilities; the first of each place is the reply's."""
    content = []
    for place in places:
        top = [{"token": token, "logprob": math.log(p) if p else -9999.0, "bytes": None} for token, p in place.items()]
        content.append({**top[0], "top_logprobs": top})
    return completion("".join(next(iter(place)) for place in places), logprobs={"content": content})


def error(message: str, status: int, **headers: str) -> Reply:
    """An error as OpenAI sends it."""
    return Reply({"error": {"message": message, "type": "x", "param": None, "code": None}}, status, headers)


class FakeEndpoint:
    """Serves `script` on a free port while the block lasts."""

    def __init__(self, script: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self.script = script
        self.over = threading.Event()
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
                with lock:
                    tries = 1 + sum(r.body["messages"] == body["messages"] for r in self.requests)
                    request = Request(len(self.requests), tries, body, {k.lower(): v for k, v in handler.headers.items()})
                    self.requests.append(request)
                self._answer(handler, self.script(request))

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # the client hung up, as it should
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.spec = f"org/model@{self.url}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.hang:
            self.over.wait(5)
        if reply.die:
            self.die()
        if reply.hang or reply.drop or reply.die:
            handler.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status, reply.phrase)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body) + reply.cut))
        handler.end_headers()
        handler.wfile.write(body)

    def die(self) -> None:
        """Close the port; connections that are being answered end as they are."""
        self.server.shutdown()
        self.server.server_close()

    def prompts(self) -> Sequence[str]:
        """What was asked so far, in order."""
        return [request.prompt for request in self.requests]

    def __enter__(self) -> FakeEndpoint:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self.die()


# what the tests of endpoints share

SAMPLING = SamplingConfig(max_new_tokens=7, temperature=0.8, min_p=0.0)


def echo(request: Request) -> Reply:
    """The answer to "x" is "to x"."""
    return Reply(completion(f" to {request.prompt} "))


def chats(n: int) -> list[Chat]:
    return [Chat.ask(f"question {i}") for i in range(n)]


def quick(**changes: Any) -> dict[str, Any]:
    """Settings of a `HostedModel` with the patience of a few hundredths of a second."""
    return {"max_connections": 4, "max_retries": 2, "model_args": {"max_retries": 0, "client_timeout": 0.2}} | changes


def hosted_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key and no proxy of the machine's own; Inspect's cache in `tmp_path`, and next to no wait before it asks again."""
    for name in ("PERSONASCOPE_API_KEY", "OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect"))
    monkeypatch.setattr(ModelAPI, "retry_wait", lambda self: wait_fixed(0.005))


def outputs(reply: Callable[[str], Any]) -> Callable[..., Any]:
    """The custom_outputs of Inspect's mockllm: what `reply` makes of the prompt, raised if it is an error."""

    async def answer(messages: list[Any], tools: Any, choice: Any, config: Any) -> ModelOutput:
        said = reply(messages[-1].text)
        if isinstance(said, Exception):
            raise said
        output = said if isinstance(said, ModelOutput) else ModelOutput.from_content("mock", said)
        return output.model_copy(update={"usage": ModelUsage()})  # mockllm would fetch a tokenizer to count

    return answer
