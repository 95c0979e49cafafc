"""Answer single requests that come in from other threads: those that wait together make one batch, on one thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal

import torch

from interp.core.errors import ModelError
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.models.chats import Chat, TokenisedChat, batches_by_length
from interp.models.generation import decode
from interp.models.language_model import LanguageModel
from interp.models.limits import context_tokens
from interp.models.sampling import SamplingConfig

TORCH = threading.Lock()
"""Held by whoever opens or runs a model while an `Answerer` is at work: torch never runs in two threads at once."""
QUIET = 0.05
"""Seconds without a new request after which those that wait are answered."""


@dataclass(frozen=True)
class Request:
    """A prompt to be answered once for every seed."""

    chat: Chat
    sampling: SamplingConfig
    seeds: Sequence[int]
    """A choice draws from its own seed, so an answer does not depend on what else is in its batch."""
    stops: Sequence[str]
    """Texts before which an answer ends."""
    future: Future[Answers]
    """Where the answers go, or the error."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    tokens: int
    """Tokens that were drawn, those after a stop text included."""
    stopped: Literal["stop", "max_tokens", "model_length"]
    """Why it ends; `model_length`: the context is full."""


@dataclass(frozen=True)
class Answers:
    """All answers to one request."""

    answers: list[Answer]
    prompt_tokens: int
    seconds: float
    """What the whole batch took."""


class Answerer:
    """One thread that answers what has come in meanwhile, batch by batch, with the edit applied."""

    def __init__(self, model: LanguageModel, edit: Edit | None, batch_rows: int) -> None:
        """`batch_rows`: rows decoded together at most."""
        self.model, self.edit, self.batch_rows = model, edit, batch_rows
        self.context = context_tokens(model.network)
        self.waiting: SimpleQueue[Request | None] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def ask(self, request: Request) -> None:
        """Queue a request; returns at once."""
        self.waiting.put(request)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, daemon=True, name=f"answers of {self.model.source}")
            self.thread.start()

    def close(self) -> None:
        """End the thread once what waits is answered. A later request begins another one."""
        if self.thread is not None:
            self.waiting.put(None)
            self.thread = None

    def _work(self) -> None:
        batch: list[Request | None] = []
        while None not in batch:
            batch = [self.waiting.get()]
            with suppress(Empty):  # it is quiet
                while batch[-1] is not None and sum(len(request.seeds) for request in batch if request) < self.batch_rows:
                    batch.append(self.waiting.get(timeout=QUIET))
            self.answer([request for request in batch if request and request.future.set_running_or_notify_cancel()])

    def answer(self, requests: Sequence[Request]) -> None:
        """Set the future of every request: to its answers, to its own error, or to the one that the batch ended with."""
        begun = monotonic()
        prompts: dict[int, TokenisedChat] = {}
        rows: dict[SamplingConfig, list[tuple[int, int]]] = {}  # place of the request, seed
        with TORCH:
            for place, request in enumerate(requests):
                try:
                    prompts[place], sampling = self._prepared(request)
                except Exception as error:
                    request.future.set_exception(error)
                else:
                    rows.setdefault(sampling, []).extend((place, seed) for seed in request.seeds)
            answers: dict[int, list[Answer]] = {place: [] for place in prompts}
            try:
                with edited(self.model, self.edit) if self.edit is not None and rows else nullcontext():
                    for sampling, own in rows.items():
                        decoded = self._decoded([prompts[place] for place, _ in own], [seed for _, seed in own], sampling)
                        for (place, _), ids in zip(own, decoded, strict=True):
                            answers[place].append(self._answer(ids, requests[place], sampling.max_new_tokens))
            except Exception as error:
                for place in prompts:
                    requests[place].future.set_exception(error)
                return
        for place, texts in answers.items():
            requests[place].future.set_result(Answers(texts, len(prompts[place].ids), monotonic() - begun))

    def _prepared(self, request: Request) -> tuple[TokenisedChat, SamplingConfig]:
        """The prompt's tokens, and the sampling with no more tokens than the context has room for."""
        (prompt,) = self.model.tokenise([request.chat])
        room = self.context - len(prompt.ids)
        if room < 1:
            raise ModelError(
                f"A prompt has {len(prompt.ids)} tokens, {self.model.source} reads and writes {self.context} in all. Shorten the prompt."
            )
        return prompt, request.sampling.model_copy(update={"max_new_tokens": min(request.sampling.max_new_tokens, room)})

    def _decoded(self, prompts: Sequence[TokenisedChat], seeds: Sequence[int], sampling: SamplingConfig) -> list[list[int]]:
        """Token ids of every answer, in order, without the token that ends it."""
        drawn = [torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        uniforms = torch.stack(drawn).to(self.model.device)
        written: dict[int, list[int]] = {}
        for indices in batches_by_length([len(prompt.ids) for prompt in prompts], self.batch_rows):
            written |= zip(indices, decode(self.model, [prompts[i] for i in indices], indices, sampling, uniforms), strict=True)
        return [written[index] for index in range(len(prompts))]

    def _answer(self, ids: list[int], request: Request, limit: int) -> Answer:
        text = self.model.format.answer(ids).text
        ends = [place for place in (text.find(stop) for stop in request.stops if stop) if place >= 0]
        if ends:
            return Answer(text[: min(ends)].strip(), len(ids), "stop")
        full: Literal["max_tokens", "model_length"] = "max_tokens" if limit == request.sampling.max_new_tokens else "model_length"
        return Answer(text.strip(), len(ids), "stop" if len(ids) < limit else full)
