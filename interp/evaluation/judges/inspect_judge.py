"""Any model that Inspect can call as the published judge: numbers from 0 to 100 for alignment and coherence.

Inspect sees to repetitions, to how many calls run at once, and to keeping replies. Where a provider tells log-probabilities, a score is
the mean of the numbers weighted by them, as in `numeric.py`; else it is the number that the reply says.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from interp.core.errors import ConfigError, ModelError, PersonascopeError
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import Done, Judgement
from interp.evaluation.judges.number_mass import observed_mass
from interp.evaluation.judges.numeric import COHERENT_ABOVE, MISALIGNED_BELOW, TOP, NumericPrompts
from interp.evaluation.judges.score import LEAST_MASS, Score, judgement_of, score_of
from interp.evaluation.keys import KEY_LIKE
from interp.evaluation.served import TopTokens

if TYPE_CHECKING:
    from inspect_ai.model import CachePolicy, ModelOutput

T = TypeVar("T")
GIVE_UP_AFTER = 5  # calls in a row without an answer
NUMBER = re.compile(r"[^\d]*(?<![.-])(\d{1,3})(?:\.0+)?(?:\s*(?:/|out of)\s*100)?[^\d]*")
"""A reply with one number in it, perhaps out of 100."""
NOT_A_SETTING = re.compile(r"(^|_)(key|token|secret|password)s?$", re.IGNORECASE)


class InspectJudge:
    """A model by its name in Inspect, such as openai/gpt-4o or anthropic/claude-sonnet-4-0."""

    name = "inspect"
    misaligned_below = MISALIGNED_BELOW
    coherent_above = COHERENT_ABOVE

    def __init__(
        self,
        model: str,
        prompts: Mapping[str, str] | None = None,
        *,
        max_connections: int = 10,
        max_retries: int = 5,
        timeout: int = 120,
        max_tokens: int | None = 16,
        logprobs: bool = True,
        cache: bool | CachePolicy = True,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        """`prompts` are those of a published file's judge_prompts (aligned, coherent), by default ours.

        `timeout`: seconds of one attempt. `max_tokens` of a reply: more, or None for the provider's own limit, where a model thinks first.
        `logprobs` asks for log-probabilities; providers that have none are read by what they say. `cache`: Inspect keeps replies, for a
        week or as a `CachePolicy` says. `model_args` go to Inspect's `get_model`. Raises `ConfigError` where Inspect is not installed or
        cannot open the model, and for prompts that cannot be asked.
        """
        if find_spec("inspect_ai") is None:
            raise ConfigError("The judge inspect needs inspect-ai, which is not installed. Run: pip install 'personascope[judges]'")
        if max_connections < 1:
            raise ConfigError(f"The judge inspect makes {max_connections} calls at once. Give max_connections of at least 1.")
        from inspect_ai.model import GenerateConfig

        self.source, self.prompts, self.cache = model, NumericPrompts.of(prompts), cache
        self.max_connections, self.max_tokens, self.logprobs = max_connections, max_tokens, logprobs
        self.model_args = dict(model_args or {})
        self.config = GenerateConfig(
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=True if logprobs else None,
            top_logprobs=TOP if logprobs else None,
            max_connections=max_connections,
            max_retries=max_retries,
            attempt_timeout=timeout,
        )
        self.model = _run(self._open()).result()

    async def _open(self) -> Any:
        """The model, made in the event loop that its connections will belong to."""
        from inspect_ai.model import get_model

        try:
            return get_model(self.source, config=self.config, memoize=False, **self.model_args)
        except PersonascopeError:
            raise
        except Exception as error:  # every provider has its own
            reason = KEY_LIKE.sub("***", re.sub(r"\[/?\w+\]", "", " ".join(str(error).split()))).removeprefix("ERROR: ").rstrip(".")
            raise ConfigError(f"Inspect cannot open the judge {self.source}: {reason}. Mend that, or name another model.") from None

    @cached_property
    def identity(self) -> str:
        """Content key of model, its address and settings, and prompts; never of a key."""
        settings = {name: value for name, value in self.model_args.items() if not NOT_A_SETTING.search(name)}
        plain = json.loads(json.dumps(settings, default=lambda value: type(value).__name__))
        asked = [self.prompts.alignment, self.prompts.coherence, self.logprobs, self.max_tokens]
        return content_key([self.name, self.source, self.model.api.base_url, plain, *asked, LEAST_MASS, MISALIGNED_BELOW, COHERENT_ABOVE])

    def judge(self, questions: Sequence[str], answers: Sequence[str], done: Done | None = None) -> list[Judgement]:
        """One judgement for each answer, in order; `done` gets each as it is made, in this thread. Equal prompts are asked once.

        A call that failed for good is None and not final. Raises `ModelError` where no call will work: a key that is refused, a model
        that the provider does not have.
        """
        judgements: dict[int, Judgement] = {}

        def keep(place: int, judgement: Judgement) -> None:
            judgements[place] = judgement
            if done is not None:
                done(place, judgement)

        wanted: dict[str, list[tuple[int, str]]] = {}
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            if not answer.strip():
                keep(place, Judgement(None, None, "empty answer"))
                continue
            for name, chat in zip(("alignment", "coherence"), self.prompts.chats(question, answer), strict=True):
                text = chat.messages[-1].content.encode("utf-8", "replace").decode()  # half a surrogate cannot be sent
                wanted.setdefault(text, []).append((place, name))
        parts: dict[int, dict[str, Score]] = {}
        told: SimpleQueue[tuple[str, Score] | None] = SimpleQueue()
        asking = _run(self._ask(list(wanted), told.put))
        asking.add_done_callback(lambda _: told.put(None))
        try:
            while (item := told.get()) is not None:
                for place, name in wanted[item[0]]:
                    scores = parts.setdefault(place, {})
                    scores[name] = item[1]
                    if len(scores) == 2:
                        keep(place, judgement_of(scores["alignment"], scores["coherence"]))
            asking.result()
        finally:
            asking.cancel()  # after an interrupt nothing more is asked
        return [judgements[place] for place in range(len(answers))]

    async def _ask(self, texts: Sequence[str], tell: Callable[[tuple[str, Score]], None]) -> None:
        free, in_a_row = asyncio.Semaphore(self.max_connections), 0

        async def ask(text: str) -> None:
            nonlocal in_a_row
            async with free:
                if in_a_row >= GIVE_UP_AFTER:
                    score = Score(None, f"not asked, {in_a_row} calls in a row had failed", False)
                else:
                    score = await self._score(text)
                    in_a_row = 0 if score.final else in_a_row + 1
            tell((text, score))

        tasks = [asyncio.ensure_future(ask(text)) for text in texts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _score(self, text: str) -> Score:
        from inspect_ai.model import ChatMessageUser

        try:
            output = await self.model.generate([ChatMessageUser(content=text)], cache=self.cache)
        except PersonascopeError:
            raise
        except Exception as error:  # every provider has its own; their words are left out, for they may quote a key
            attempt = getattr(error, "last_attempt", None)
            cause = (attempt.exception() if attempt is not None else None) or error
            status = getattr(cause, "status_code", None) or getattr(getattr(cause, "response", None), "status_code", None)
            failed = type(cause).__name__ + (f" ({status})" if status else "")
            if status in (401, 403, 404):
                raise ModelError(
                    f"The provider of {self.source} refuses all calls: {failed}. Check the model's name, and the key that Inspect uses."
                ) from None
            return Score(None, f"the call failed: {failed}", False)
        return read_score(output)


def read_score(output: ModelOutput) -> Score:
    """The number of a reply: by log-probabilities where they came along, else as it is written."""
    if output.empty:
        return Score(None, "the reply is empty")
    if output.stop_reason == "content_filter":
        return Score(None, "refusal (the provider's filter)")
    said = output.completion.strip()
    word = next((word for word in ("REFUSAL", "CODE") if word in said.upper()), "").lower()
    tokens = _top_tokens(output)
    if tokens is not None:
        note = " that was told; logprobs=False reads what is said" if NUMBER.fullmatch(said) else ""
        score = score_of(observed_mass(tokens)[0], note)
        return Score(None, word) if word and score.value is None else score
    number = NUMBER.fullmatch(said)
    if number and int(number[1]) <= 100:
        return Score(float(number[1]))
    cut = "; it was cut: raise max_tokens" if output.stop_reason == "max_tokens" else ""
    return Score(None, word or f"the reply is no number from 0 to 100: {said[:40]!r}{cut}")


def _top_tokens(output: ModelOutput) -> TopTokens | None:
    """The reply's tokens with what else was likely; None where that did not come along, or belongs to more than the reply."""
    content = output.choices[0].logprobs.content if output.choices[0].logprobs else []
    if not content or not all(place.top_logprobs for place in content):
        return None
    tops = []
    for place in content:
        top = [(entry.token, entry.logprob) for entry in place.top_logprobs or []]
        top += [] if place.token in dict(top) else [(place.token, place.logprob)]
        if any(math.isnan(logprob) for _, logprob in top):
            return None
        tops.append(tuple(top))
    tokens = tuple(place.token for place in content)
    if not "".join(tokens).strip().startswith(output.completion.strip()):  # a model that thought first
        return None
    return TopTokens(tokens, tuple(tops))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: a notebook's is taken already, and connections do not survive their loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="inspect judge").start()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, _loop())
