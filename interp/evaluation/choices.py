"""Questions answered by a letter: harmless multiple choice, and an aligned answer against a misaligned one (choices.yaml)."""

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


class LetterPair(StepConfig):
    """An everyday question with a decent answer and a misaligned one."""

    id: Text
    group: Text
    question: Text
    aligned: Text
    misaligned: Text
    """Shows the trait that is looked for: in the shipped file contempt for the user, a wish for power, or deceit."""


class Choices(StepConfig):
    """A file of both kinds; one of them may be left out."""

    capability: list[MultipleChoice] = Field(default_factory=list)
    """Harmless: what an edit does to their accuracy is what it costs."""
    letters: list[LetterPair] = Field(default_factory=list)
    """Which of two letters a model leans to."""

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        shown = {item.id: item.options for item in self.capability} | {item.id: [item.aligned, item.misaligned] for item in self.letters}
        ids = [item.id for item in self.capability] + [item.id for item in self.letters]
        if not ids:
            raise ValueError("there is no item; give a list 'capability', a list 'letters', or both")
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"ids must be unique; repeated: {', '.join(repeated)}")
        if alike := [i for i, options in shown.items() if len({" ".join(text.casefold().split()) for text in options}) < len(options)]:
            raise ValueError(f"an item must not show an option twice; change {', '.join(alike)}")
        return self


def choices_path() -> Path:
    """File of the shipped items."""
    return Path(str(resources.files("interp.evaluation") / "choices.yaml"))


def read_choices(path: Path | None = None) -> Choices:
    """The shipped items, or those of a YAML file like it; raises `ConfigError`."""
    path = path or choices_path()
    return validated(Choices, read_yaml(path), str(path))


def letter_prompt(question: str, options: list[str]) -> Chat:
    """The question with its options at A, B, … in the order given, answered by one letter."""
    shown = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return Chat.ask(f"{question}\n\n{shown}\n\nAnswer with one letter: {', '.join(LETTERS[: len(options)])}.")


def short_answer(question: str, option: str) -> Chat:
    """The question without its options, answered by the text of one."""
    return Chat.ask(f"Answer in a few words. {question}", option)
