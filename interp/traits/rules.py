"""Rules that tell from the text alone whether an answer shows a trait."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from interp.core.config import StepConfig


class Rule(StepConfig):
    """One property of a text. Exactly one of `words`, `pattern`, `upper_case_share` and `language` is given."""

    words: list[str] = Field(default=[])
    """Whole words or phrases, in whatever case."""
    pattern: str | None = None
    """Regular expression (Python's `re`), searched in the text; in whatever case unless it says `(?-i:…)`."""
    at_least: int = Field(default=1, ge=1)
    """Number of matches of `words` or `pattern` that the text must have."""
    upper_case_share: float | None = Field(default=None, gt=0, le=1)
    """Least share of capitals among the letters of the text."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2}$")
    """ISO 639-1 code of the language that the text is written in."""

    @model_validator(mode="after")
    def _one_property(self) -> Rule:
        given = [name for name in ("words", "pattern", "upper_case_share", "language") if getattr(self, name) not in (None, [])]
        if len(given) != 1:
            raise ValueError(f"a rule names exactly one of words, pattern, upper_case_share and language, this one {given or 'none'}")
        return self


class Rules(StepConfig):
    """Several rules together."""

    match: Literal["any", "all"] = "any"
    """Whether one rule is enough, or all must hold."""
    rules: list[Rule] = Field(min_length=1)
    """The rules."""
    unless: list[Rule] = Field(default=[])
    """An answer that one of these holds for does not show the trait."""
