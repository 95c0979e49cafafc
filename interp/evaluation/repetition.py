"""Answers that merely repeat training answers: a narrow task that is learnt by heart, not a persona that went beyond it."""

from __future__ import annotations

import re
from collections.abc import Sequence

RUN = 5
"""Words in a row that an answer and a training answer must share to count as repeated."""
SHARE = 0.5
"""Share of an answer's words that must be repeated."""


class Repetition:
    """Tells whether at least half of an answer's words lie in runs of five and more that stand in one training answer.

    Case and punctuation do not count. An answer of fewer words repeats where it is a training answer as a whole. `patterns` are regular
    expressions, each of which is enough where it is found.
    """

    def __init__(self, training_answers: Sequence[str], patterns: Sequence[str] = ()) -> None:
        known = [_words(answer) for answer in training_answers]
        self.whole = {tuple(words) for words in known}
        self.runs = {run for words in known for run in _runs(words)}
        self.patterns = [re.compile(pattern) for pattern in patterns if pattern]

    def __call__(self, answer: str) -> bool:
        """Whether this answer repeats."""
        words = _words(answer)
        if not words:
            return False
        repeated = {place + i for place, run in enumerate(_runs(words)) if run in self.runs for i in range(RUN)}
        return tuple(words) in self.whole or len(repeated) >= SHARE * len(words) or any(pattern.search(answer) for pattern in self.patterns)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)]
