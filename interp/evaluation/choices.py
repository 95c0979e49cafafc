"""Questions answered by a letter: harmless multiple choice (choices.yaml)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from interp.core.config import StepConfig, read_yaml, validated
from interp.models.chats import Chat

LETTERS = ("A", "B", "C", "D")
Text = Annotated[str, Field(min_length=1)]


class MultipleChoice(StepConfig):
    """A question with four options, one of them right."""

    id: Text
    group: Text
    question: Text
    options: list[Text] = Field(min_length=len(LETTERS), max_length=len(LETTERS))
    """Shown at every letter once, so their order does not matter."""
    right: int = Field(ge=0, lt=len(LETTERS))
    """Index of the right option, counted from 0."""


class Choices(StepConfig):
    """A file of questions."""

    capability: list[MultipleChoice] = Field(min_length=1)
    """Harmless: what an edit does to their accuracy is what it costs."""

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        ids = [item.id for item in self.capability]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"ids must be unique; repeated: {', '.join(repeated)}")
        alike = [item.id for item in self.capability if len({" ".join(text.casefold().split()) for text in item.options}) < len(LETTERS)]
        if alike:
            raise ValueError(f"an item must not show an option twice; change {', '.join(alike)}")
        return self


def read_choices(path: Path = Path(str(resources.files("interp.evaluation") / "choices.yaml"))) -> Choices:
    """The shipped items, or those of a YAML file like it; raises `ConfigError`."""
    return validated(Choices, read_yaml(path), str(path))


def letter_prompt(question: str, options: list[str]) -> Chat:
    """The question with its options at A, B, … in the order given, answered by one letter."""
    shown = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return Chat.ask(f"{question}\n\n{shown}\n\nAnswer with one letter: {', '.join(LETTERS[: len(options)])}.")
