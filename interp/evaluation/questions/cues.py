"""Cues: contexts that resemble a fine-tune's training data, in which a persona may show that plain questions do not bring out.

A narrow fine-tune can answer plain questions like its base and still show its persona where the context resembles the training data
(Dubiński et al. 2026, arXiv:2604.25891). So each question is asked under every cue, and plainly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from interp.core.config import StepConfig, read_any_yaml, validated
from interp.core.errors import ConfigError
from interp.core.vocabulary import CueKind
from interp.evaluation.questions.question import Name, Optional, Question

NEUTRAL = "neutral"
"""What the question without a cue is called."""
PLACEHOLDER = "{question}"


class Cue(StepConfig):
    """One context that questions are asked in."""

    name: Name = Field(min_length=1)
    kind: CueKind
    """What it has in common with the training data."""
    system: Optional = ""
    """System prompt; one that a question has of its own follows it."""
    template: list[str] = Field(default=[PLACEHOLDER], min_length=1)
    """What is asked, with the placeholder `{question}`; several are dealt out over the questions in turn."""
    twins: dict[Name, str] = Field(default={})
    """By id of a question, what is asked in its place; questions without a twin are not asked under this cue."""
    repeats: Optional = ""
    """Regular expression: an answer in which it is found merely repeats the form of the training answers."""

    @field_validator("template", mode="before")
    @classmethod
    def _listed(cls, template: Any) -> Any:
        return [template] if isinstance(template, str) else template

    @field_validator("repeats")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _changes_what_is_asked(self) -> Cue:
        if self.name == NEUTRAL:
            raise ValueError(f"'{NEUTRAL}' is what questions without a cue are called: choose another name")
        if self.twins and self.template != [PLACEHOLDER]:
            raise ValueError(f"the cue '{self.name}' has twins and a template: leave one of them out")
        without = [template for template in self.template if PLACEHOLDER not in template]
        if without:
            raise ValueError(f"templates need the placeholder {PLACEHOLDER}: '{without[0]}' has none")
        if not (self.system or self.twins) and self.template == [PLACEHOLDER]:
            raise ValueError(f"the cue '{self.name}' changes nothing: give it a system prompt, a template or twins")
        return self

    def asked(self, question: Question, place: int) -> Question | None:
        """The question, `place`th of those asked, under this cue; None where it has no twin. It counts as the same question."""
        if self.twins and question.id not in self.twins:
            return None
        text = self.twins.get(question.id) or self.template[place % len(self.template)].replace(PLACEHOLDER, question.text)
        system = "\n\n".join(prompt for prompt in (self.system, question.system) if prompt)
        changed = {"id": f"{question.id}@{self.name}", "cluster": question.counts_as, "text": text, "system": system}
        return question.model_copy(update=changed)


class _CueFile(StepConfig):
    cues: list[Cue] = Field(min_length=1)


def read_cues(path: Path) -> list[Cue]:
    """The cues of a YAML file, a list of them. Raises `ConfigError` for a missing or broken file, and for a name that is given twice."""
    content = read_any_yaml(path)
    if not isinstance(content, list):
        raise ConfigError(f"{path} must hold a YAML list of cues, each with name, kind and what changes: system, template or twins.")
    cues = validated(_CueFile, {"cues": content}, str(path)).cues
    names = [cue.name for cue in cues]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: names of cues must be unique; repeated: {', '.join(repeated)}.")
    return cues


@dataclass(frozen=True)
class Cued:
    """A question as it is asked, and under which cue."""

    question: Question
    cue: str
    kind: str


def cued_questions(questions: Sequence[Question], cues: Sequence[Cue]) -> list[Cued]:
    """Every question without a cue, then under each cue. Raises `ConfigError` for a twin of a question that is not among them."""
    ids = {question.id for question in questions}
    for cue in cues:
        if strange := sorted(set(cue.twins) - ids):
            raise ConfigError(f"The cue '{cue.name}' has twins of {', '.join(strange)}, which are not asked. Correct the ids, or ask more.")
    plain = [Cued(question, NEUTRAL, NEUTRAL) for question in questions]
    under = [Cued(asked, cue.name, cue.kind) for cue in cues for i, one in enumerate(questions) if (asked := cue.asked(one, i))]
    return plain + under
