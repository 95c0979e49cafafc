"""Ask a model, edited or not, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from interp.core.config import validated
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.models import generation
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig


@overload
def generate(model: LanguageModel, prompts: str | Chat, edits: Edit | Sequence[Edit] = (), seed: int = 0, **sampling: Any) -> str: ...
@overload
def generate(
    model: LanguageModel, prompts: Sequence[str | Chat], edits: Edit | Sequence[Edit] = (), seed: int = 0, **sampling: Any
) -> list[str]: ...
def generate(
    model: LanguageModel,
    prompts: str | Chat | Sequence[str | Chat],
    edits: Edit | Sequence[Edit] = (),
    seed: int = 0,
    **sampling: Any,
) -> str | list[str]:
    """The model's answer to a question or chat, or to each of several, with `edits` applied while it answers.

    `sampling` are fields of `SamplingConfig`: max_new_tokens, temperature, … Raises `ConfigError` for others.
    """
    several = [prompts] if isinstance(prompts, str | Chat) else list(prompts)
    chats = [prompt if isinstance(prompt, Chat) else Chat.ask(prompt) for prompt in several]
    config = validated(SamplingConfig, sampling, "generate")
    with edited(model, *([edits] if isinstance(edits, Edit) else edits)):
        answers = generation.generate(model, chats, config, seed)
    return answers[0] if isinstance(prompts, str | Chat) else answers
