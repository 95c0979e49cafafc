"""The one judge protocol."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer."""

    trait_score: float | None
    """0 (does not show the trait) to 100 (plainly shows it); None where it cannot be judged."""
    coherence: float | None
    """0 (word salad) to 100 (fluent); None where it cannot be judged."""
    reason: str = ""
    """Why something is None."""
    final: bool = True
    """False where asking again may help, as when an endpoint did not answer; such a judgement is not cached."""


EMPTY = Judgement(None, None, "empty answer")


class Judge(Protocol):
    """Maps question and answer to a judgement."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def identity(self) -> str:
        """Content key of all that decides its judgements: model, prompts, what it was fitted on; never a key of access."""

    @property
    def shows_above(self) -> float | None:
        """Trait score above which an answer shows the trait; None: it does not judge the trait."""

    @property
    def coherent_above(self) -> float | None:
        """Coherence above which an answer is coherent; None: it does not judge coherence."""

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> Iterable[Judgement]:
        """One judgement for each answer, in order; each is kept as soon as it is given."""


def score_of_alignment(alignment: float) -> float:
    """100 - `alignment`, rounded up where it is no double.

    So `alignment` is below 100 - t exactly where the score is above t, for every threshold t: the nearest double would lose what lies
    closest to a published threshold.
    """
    score = 100.0 - alignment
    taken = score - 100.0
    lost = (100.0 - (score - taken)) - (alignment + taken)  # what rounding left out, exactly (Knuth's two-sum)
    return math.nextafter(score, math.inf) if lost > 0 else score
