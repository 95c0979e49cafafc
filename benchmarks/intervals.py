"""How often 95 % intervals of clustered rates cover the truth, and how wide they are beside those of an oracle.

2,000 simulated evaluations a line, by default 48 questions with 20 answers each, every question with a rate of its own, beta-distributed
around the true one. The oracle is Wilson's interval at the true design effect, which only a simulation knows. For prediction-powered
intervals 300 of the answers have gold labels, and the judge says yes to 80 % of the true and 10 % of the untrue ones, differing from
question to question; their oracle is a normal interval with the estimator's true standard error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from interp.core.files import write_json
from interp.stats.intervals import beta_binomial, cluster_bootstrap, design_effect, wilson
from interp.stats.prediction_powered import prediction_powered_rate

QUESTIONS, ANSWERS, LABELS = 48, 20, 300
OTHER_SHAPES = ((24, 2), (8, 100), (48, 100))
"""Questions and answers to each, on which the bar was not set."""
RATES, LIKENESSES = (0.01, 0.2, 0.5), (0.05, 0.2, 0.4, 0.6)


def worlds(rate: float, likeness: float, simulations: int, questions: int = QUESTIONS, answers: int = ANSWERS) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    size = 1 / likeness - 1
    for _ in range(simulations):
        own = generator.beta(rate * size, (1 - rate) * size, questions)
        yield generator.random((questions, answers)) < own[:, None]


def clustered(rate: float, likeness: float, simulations: int, questions: int = QUESTIONS, answers: int = ANSWERS) -> dict[str, Any]:
    sizes = np.full(questions, answers)
    effective = questions * answers / (1 + (answers - 1) * likeness)
    ends: dict[str, list[tuple[float, float]]] = {"beta_binomial": [], "wilson": [], "bootstrap": [], "oracle": []}
    for world in worlds(rate, likeness, simulations, questions, answers):
        hits = world.sum(1)
        share = float(world.mean())
        ends["beta_binomial"].append(beta_binomial(hits, sizes))
        ends["wilson"].append(wilson(share, world.size / design_effect(hits, sizes)))
        ends["bootstrap"].append(cluster_bootstrap(hits, sizes))
        ends["oracle"].append(wilson(share, effective))
    return summary(rate, ends, width_of(ends["oracle"]))


def prediction_powered(rate: float, likeness: float, simulations: int) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(QUESTIONS), ANSWERS).tolist()
    found, naive, estimates = [], [], []
    for world in worlds(rate, likeness, simulations):
        truth = world.ravel()
        yes = np.clip(generator.normal(0.8, 0.1, QUESTIONS), 0, 1).repeat(ANSWERS)
        no = np.clip(generator.normal(0.1, 0.05, QUESTIONS), 0, 1).repeat(ANSWERS)
        said = generator.random(truth.size) < np.where(truth, yes, no)
        gold: list[bool | None] = [None] * truth.size
        for place in generator.choice(truth.size, LABELS, replace=False):
            gold[place] = bool(truth[place])
        powered = prediction_powered_rate(said.tolist(), gold, clusters)
        found.append((powered.low, powered.high))
        estimates.append(powered.rate)
        naive.append(beta_binomial(said.reshape(world.shape).sum(1), np.full(QUESTIONS, ANSWERS)))
    return summary(rate, {"prediction_powered": found, "judge_alone": naive}, 2 * 1.96 * float(np.std(estimates)))


def summary(rate: float, ends: dict[str, list[tuple[float, float]]], oracle: float) -> dict[str, Any]:
    return {
        name: {"coverage": sum(low <= rate <= high for low, high in own) / len(own), "width_over_oracle": width_of(own) / oracle}
        for name, own in ends.items()
    }


def width_of(ends: list[tuple[float, float]]) -> float:
    return math.fsum(high - low for low, high in ends) / len(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    given = parser.parse_args()
    shapes = []
    for questions, answers in ((QUESTIONS, ANSWERS), *OTHER_SHAPES):
        rows = []
        for rate in RATES:
            for likeness in LIKENESSES:
                row = clustered(rate, likeness, given.simulations, questions, answers)
                if (questions, answers) == (QUESTIONS, ANSWERS):
                    row |= prediction_powered(rate, likeness, given.simulations)
                rows.append({"rate": rate, "likeness": likeness, **row})
                print(
                    questions, answers, rate, likeness, {name: [round(v, 3) for v in own.values()] for name, own in row.items()}, flush=True
                )
        shapes.append({"questions": questions, "answers": answers, "rows": rows})
    write_json(given.out, {"labels": LABELS, "simulations": given.simulations, "shapes": shapes})


if __name__ == "__main__":
    main()
