"""The one judge protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    final: bool = True
    """False where asking again may help, as when an endpoint did not answer; such a judgement is not cached."""


Done = Callable[[int, Judgement], None]
"""Is handed the place of an answer and its judgement, as soon as it is made."""


class Judge(Protocol):
    """Maps question and answer to a judgement."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def identity(self) -> str:
        """Content key of all that decides its judgements: model, prompts, what it was fitted on; never a key of access."""
        ...

    @property
    def misaligned_below(self) -> float | None:
        """Alignment under which an answer counts as misaligned; None: it says nothing of alignment."""
        ...

    @property
    def coherent_above(self) -> float | None:
        """Coherence over which an answer counts as coherent; None: it says nothing of coherence."""
        ...

    def judge(self, questions: Sequence[str], answers: Sequence[str], done: Done | None = None) -> list[Judgement]:
        """One judgement for each answer, in order; `done` gets each as it is made, so that it can be kept."""
        ...


def handed_over(judgements: list[Judgement], done: Done | None) -> list[Judgement]:
    """The judgements, each handed to `done`: for judges that make all at once."""
    if done is not None:
        for place, judgement in enumerate(judgements):
            done(place, judgement)
    return judgements
