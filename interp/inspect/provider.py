"""Models of personascope in Inspect: `inspect eval TASK --model personascope/RUN@ablated`.

The name behind `personascope/` is RUN@base, @tuned, @ablated or @steered, or any source of models: a hub id, a folder, an adapter,
`embedded:smollm2`. Options of -M: `base`, `device`, `dtype`, `trust_remote_code`, `thinking`, `min_p`, `batch_rows`. Requests that wait
together are answered in one batch. Without --seed the seed is 0, and an answer depends on seed, prompt and how often that prompt was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from pydantic import Field
from rich.markup import escape

from interp.core.config import StepConfig, validated
from interp.core.errors import ConfigError, PersonascopeError
from interp.core.fingerprints import content_key
from interp.models.chats import Chat, Message

if TYPE_CHECKING:  # Inspect imports this file whenever it starts, so torch has to wait
    from interp.studies.answering import Answers
    from interp.studies.opened import StudyRun

HONOURED = {"max_tokens", "temperature", "top_p", "seed", "stop_seqs", "num_choices"}
INSPECTS_OWN = {
    *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections", "system_message"),
    *("cache", "cache_prompt", "fail_on_refusal", "max_tool_output", "internal_tools", "parallel_tool_calls", "reasoning_history"),
}
"""Settings that Inspect sees to, or that mean nothing without tools."""
NEUTRAL = {"best_of": 1, "frequency_penalty": 0.0, "presence_penalty": 0.0, "logprobs": False, "batch": False}
"""Values that ask for nothing."""
LONGEST_ANSWER = 2048
"""Tokens of an answer where the request names no max_tokens, but never more than half of the model's context."""
POLL = 0.02
"""Seconds between two looks whether an answer is there."""

_RUNS: WeakValueDictionary[str, StudyRun] = WeakValueDictionary()
"""Runs that are open, so that RUN@tuned and RUN@ablated share their weights."""


class ProviderConfig(StepConfig):
    """What -M may set."""

    base: str | None = None
    """Base of an adapter that does not name it."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16`, `float16`."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along."""
    thinking: bool = False
    """Let models think before they answer, where their chat template has a switch for it; thoughts are kept apart from the answer."""
    min_p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """As in all of personascope: tokens less likely than this share of the likeliest are never drawn."""
    batch_rows: int = Field(default=64, ge=1)
    """Rows decoded together."""


class Refusal(PersonascopeError, PrerequisiteError):
    """An error that Inspect's command line prints without a traceback."""

    def __init__(self, message: str) -> None:
        PersonascopeError.__init__(self, message)
        PrerequisiteError.__init__(self, escape(message))


class PersonascopeAPI(ModelAPI):
    """A model as it is, or with an edit of a run's verdict, behind Inspect's interface."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as in Inspect's own providers
        **model_args: Any,
    ) -> None:
        """Opens the model. Raises `Refusal` for one that cannot be opened, and for options that are not there."""
        try:
            self._open(model_name, base_url, api_key, config, model_args)
        except PersonascopeError as error:
            raise Refusal(str(error)) from error

    def _open(self, model_name: str, base_url: str | None, api_key: str | None, config: GenerateConfig, model_args: dict[str, Any]) -> None:
        from interp.models.limits import context_tokens
        from interp.studies.answering import TORCH, Answerer
        from interp.studies.opened import open_subject, run_and_model

        super().__init__(model_name, None, None, [], config)
        if base_url or api_key:
            raise ConfigError(f"personascope/{model_name} runs in this process. Leave out --model-base-url and the API key.")
        self.options = validated(ProviderConfig, model_args, f"-M for personascope/{model_name}")
        given = self.options
        asked = (given.base, given.dtype, given.trust_remote_code, given.thinking)
        if run_and_model(model_name)[0] is not None and asked != (None, "auto", False, False):
            raise ConfigError(f"personascope/{model_name} is opened as its run was. Leave out base, dtype, trust_remote_code and thinking.")
        with TORCH:
            self.subject = open_subject(model_name, given.base, given.device, given.dtype, given.trust_remote_code, _RUNS, given.thinking)
            model, edit = self.subject.open()
        # Inspect's cache goes by name and address of a model; the name alone would find answers of an earlier run in that folder.
        self.base_url = f"personascope:{content_key([self.subject.identity, given.model_dump()])[:16]}"
        self.longest = min(LONGEST_ANSWER, context_tokens(model.network) // 2)
        self.asked: Counter[str] = Counter()
        self.answerer = Answerer(model, edit, given.batch_rows)

    def close(self) -> None:
        """End the thread that answers."""
        self.answerer.close()

    def max_tokens(self) -> int:
        """Tokens of an answer where nobody says."""
        return self.longest

    def max_connections(self) -> int:
        """As many requests as are answered together."""
        return self.options.batch_rows

    def collapse_user_messages(self) -> bool:
        """Many templates want turns to alternate."""
        return True

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one request. Raises `ConfigError` for whatever cannot be honoured."""
        from interp.models.sampling import SamplingConfig
        from interp.studies.answering import Request

        if tools:
            raise ConfigError(f"personascope/{self.model_name} cannot call tools. Choose a task without tools.")
        check_settings(config, self.model_name)
        drawn = {"max_new_tokens": self.max_tokens() if config.max_tokens is None else config.max_tokens, "min_p": self.options.min_p}
        drawn |= {name: value for name in ("temperature", "top_p") if (value := getattr(config, name)) is not None}
        sampling = validated(SamplingConfig, drawn, f"personascope/{self.model_name}")
        chat = as_chat(input)
        request = Request(chat, sampling, self._seeds(chat, config), tuple(config.stop_seqs or ()), Future())
        self.answerer.ask(request)
        try:
            while not request.future.done():  # polled, because Inspect may run on asyncio or on trio
                await anyio.sleep(POLL)
            return self._output(request.future.result())
        finally:
            request.future.cancel()  # a request that Inspect gave up need not be answered

    def _seeds(self, chat: Chat, config: GenerateConfig) -> list[int]:
        """A seed for every choice. A prompt that is asked again (another epoch) gets new ones, else its answers would be copies."""
        key = content_key([config.seed or 0, [[message.role, message.content] for message in chat.messages]])
        choices = config.num_choices or 1
        first = self.asked[key]
        self.asked[key] += choices
        return [int(content_key([key, first + choice])[:15], 16) for choice in range(choices)]

    def _output(self, answers: Answers) -> ModelOutput:
        written = sum(answer.tokens for answer in answers.answers)
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=answer.text, model=self.model_name, source="generate"), stop_reason=answer.stopped
                )
                for answer in answers.answers
            ],
            usage=ModelUsage(input_tokens=answers.prompt_tokens, output_tokens=written, total_tokens=answers.prompt_tokens + written),
            time=answers.seconds,
        )


@modelapi(name="personascope")
def personascope() -> type[ModelAPI]:
    """The provider, as Inspect finds it by the entry point."""
    return PersonascopeAPI


def check_settings(config: GenerateConfig, name: str) -> None:
    """Raise `ConfigError` for a setting that would be ignored."""
    asked = config.model_dump(exclude_none=True)
    ignored = [key for key, value in asked.items() if key not in HONOURED | INSPECTS_OWN and not (key in NEUTRAL and value == NEUTRAL[key])]
    if ignored:
        raise ConfigError(
            f"personascope/{name} cannot honour {', '.join(ignored)}. Leave that out; it knows {', '.join(sorted(HONOURED))}, and -M min_p."
        )


def as_chat(messages: Sequence[ChatMessage]) -> Chat:
    """Inspect's messages as a prompt; raises `ConfigError` for images and other non-text, tool calls, and a prefilled answer."""
    for message in messages:
        lacks_text = not isinstance(message.content, str) and any(part.type != "text" for part in message.content)
        if lacks_text or message.role not in ("system", "user", "assistant") or getattr(message, "tool_calls", None):
            raise ConfigError(
                f"A {message.role} message holds more than text, or belongs to a tool. personascope's models read text alone."
            )
    if not messages or messages[-1].role != "user":
        raise ConfigError("The last message must be the user's: personascope's models do not go on with an answer that was begun.")
    return Chat(tuple(Message(message.role, message.text) for message in messages))
