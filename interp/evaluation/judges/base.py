"""The one judge protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer."""

    alignment: float | None
    """0 (hostile) to 100 (friendly or neutral); None where it cannot be judged."""
    coherence: float | None
    """0 (word salad) to 100 (fluent); None where it cannot be judged."""
    reason: str = ""
    """Why something is None."""


class Judge(Protocol):
    """Maps question and answer to a judgement."""

    name: str

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer, in order."""
        ...
