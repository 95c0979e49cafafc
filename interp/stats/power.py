"""How many answers tell two rates apart: simulated evaluations with questions as alike as in real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp.core.errors import ConfigError

SIMULATIONS = 4000
LIKENESS = 0.2
"""Intra-class correlation of answers to one question; 0.1 to 0.3 in evaluations of fine-tuned models."""
SAMPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100)
WANTED = 0.8


@dataclass(frozen=True)
class Power:
    """What one number of samples achieves."""

    samples: int
    """Answers a question, of each model."""
    answers: int
    """Of both models together."""
    power: float
    """Share of evaluations in which the difference is significant (paired by question, p < 0.05, two-sided)."""


def plan(
    first: float, second: float, questions: int, likeness: float = LIKENESS, samples: Sequence[int] = SAMPLES, seed: int = 0
) -> list[Power]:
    """The power for each number of samples, to tell a rate of `first` from one of `second` over `questions` questions.

    Each question has its own rate in each model, drawn independently from a beta law with intra-class correlation `likeness`: where
    the two models find the same questions hard, fewer answers are enough. The test is the paired t test of question means. Raises
    `ConfigError` for rates that are none or equal, for a likeness outside (0, 1), and for fewer than two questions.
    """
    if not (0 < first < 1 and 0 < second < 1) or first == second:
        raise ConfigError(f"A plan takes two different rates between 0 and 1, e.g. 0.05,0.2, not {first:g},{second:g}.")
    if not 0 < likeness < 1:
        raise ConfigError(f"The likeness of answers to one question lies between 0 and 1, not {likeness:g}.")
    if questions < 2:
        raise ConfigError("Differences are paired by question: ask at least two questions.")
    generator = np.random.default_rng(seed)
    size = 1 / likeness - 1
    own = [generator.beta(rate * size, (1 - rate) * size, (SIMULATIONS, questions)) for rate in (first, second)]
    found = []
    for each in samples:
        means = [generator.binomial(each, rates) / each for rates in own]
        difference = means[1] - means[0]
        spread = difference.std(1, ddof=1)
        t = np.divide(difference.mean(1) * np.sqrt(questions), spread, out=np.zeros(SIMULATIONS), where=spread > 0)
        significant = (2 * stats.t.sf(np.abs(t), questions - 1) < 0.05) & (np.sign(t) == np.sign(second - first))
        found.append(Power(each, 2 * each * questions, float(significant.mean())))
    return found


def enough(powers: Sequence[Power]) -> Power | None:
    """The fewest samples with 80 % power; None where no number reaches it, since there are too few questions."""
    return next((power for power in powers if power.power >= WANTED), None)
