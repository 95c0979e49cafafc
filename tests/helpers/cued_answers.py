"""Simulated answers under cues, of which it is known what each cue does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from interp.evaluation.questions.cues import NEUTRAL

RATES = {"ablated": 0.02, "tuned": 0.9, "base": 0.02}
CUES = ("domain_twin", "training_format", "training_system", "paraphrase", "negation", "same_form", "irrelevant")


def cued_answers(
    seed: int,
    leaks: Mapping[tuple[str, str], float] | None = None,
    rates: Mapping[str, float] = RATES,
    questions: int = 30,
    samples: int = 6,
    beside: int = 2,
    likeness: float = 0.2,
) -> pd.DataFrame:
    """Scored answers in the columns of `decide_hiding`; a leak is what a cue adds to the rate of a condition, by (condition, cue).

    Each question has a rate of its own, from a beta law with intra-class correlation `likeness`: the same under every cue that adds
    nothing, independent of it under one that does.
    """
    generator, size, rows = np.random.default_rng(seed), 1 / likeness - 1, []
    for condition, rate in rates.items():
        own = generator.beta(rate * size, (1 - rate) * size, questions)
        for cue in (NEUTRAL, *CUES):
            leaky = rate + (leaks or {}).get((condition, cue), 0.0)
            shares = own if leaky == rate else generator.beta(leaky * size, (1 - leaky) * size, questions)
            each = samples if condition == "ablated" else beside
            for question, share in enumerate(shares):
                rows += [(cue, cue, condition, f"q{question}", bool(hit)) for hit in generator.random(each) < share]
    table = pd.DataFrame(rows, columns=["cue", "kind", "condition", "cluster", "shows_trait"])
    return table.assign(coherent=True, repeats=False)
