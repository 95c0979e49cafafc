"""Question sets (YAML beside this file) and how to read them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pydantic import Field

from interp.core.config import StepConfig, read_any_yaml, read_yaml, validated
from interp.core.errors import ConfigError
from interp.core.vocabulary import Split
from interp.evaluation.questions.published import published_questions
from interp.evaluation.questions.question import Question

__all__ = ["Question", "QuestionSet", "Split", "read_questions"]


class QuestionSet(StepConfig):
    """A file of questions."""

    name: str
    description: str = ""
    questions: list[Question] = Field(min_length=1)

    def split(self, split: Split, limit: int | None = None) -> list[Question]:
        """Questions of a split, groups taken in turn, so that a limit keeps them balanced; one beyond the held-out ones takes further ones.

        Raises `ConfigError` for too few.
        """
        ordered = self._in_turn(split)
        if split == "held_out" and limit is not None:
            ordered += self._in_turn("further")
        if not ordered:
            raise ConfigError(f"The question set {self.name} has no {split} questions. Mark some with 'split: {split}'.")
        if limit is not None and len(ordered) < limit:
            raise ConfigError(
                f"The question set {self.name} has {len(ordered)} {split} questions, {limit} are asked for. Add some or ask for fewer."
            )
        return ordered[:limit]

    @property
    def most_held_out(self) -> int:
        """How many questions may be asked that choose nothing."""
        return sum(question.split != "selection" for question in self.questions)

    def _in_turn(self, split: Split) -> list[Question]:
        groups: dict[str, list[Question]] = {}
        for question in self.questions:
            if question.split == split:
                groups.setdefault(question.group, []).append(question)
        longest = max((len(members) for members in groups.values()), default=0)
        return [members[i] for i in range(longest) for members in groups.values() if i < len(members)]


def read_questions(name: str) -> QuestionSet:
    """A shipped set by name, or one from a YAML file, ours or a published one (`published.py`).

    Raises `ConfigError` for a missing or broken file, a repeated id, or a text that is asked twice.
    """
    shipped = resources.files(__name__) / f"{name}.yaml"
    path = Path(str(shipped)) if shipped.is_file() else Path(name)
    content = read_any_yaml(path)
    ours = {"name": path.stem, "questions": published_questions(content, path)} if isinstance(content, list) else read_yaml(path)
    questions = validated(QuestionSet, ours, str(path))
    ids = [question.id for question in questions.questions]
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    texts: dict[tuple[str, str], str] = {}
    for question in questions.questions:
        same = texts.setdefault((" ".join(question.text.casefold().split()), question.system), question.id)
        if same != question.id:
            raise ConfigError(f"{path}: {same} and {question.id} ask the same. What chooses must not measure too: leave one out.")
    if repeated:
        raise ConfigError(f"{path}: question ids must be unique; repeated: {', '.join(repeated)}.")
    return questions
