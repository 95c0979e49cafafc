"""Whether so many answers can carry a verdict: its comparisons, simulated for a persona that the latents carry whole.

What is assumed: the tuned model without the latents answers as the base does, and the base with them as the tuned model does; controls
change nothing; each question has a rate of its own in either, from a beta law. So the power is that for a full cure; that for the effect
which happened to be measured would say no more than its p (Hoenig & Heisey 2001). The test among single draws and coherence are left out:
they seldom fail where the others hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from interp.core.errors import ConfigError
from interp.stats.power import LIKENESS, SAMPLES

SIMULATIONS = 1000


@dataclass(frozen=True)
class VerdictPower:
    """Chances that the rules hold where they should."""

    present: float
    """That the tuned model is seen to stand above the base."""
    necessary: float
    """That a full cure is seen as one, against every control."""
    sufficient: float
    """That directions which bring the whole persona are seen to bring it, against every control."""
    causes: float
    """All of these at once."""
    smallest: float
    """That a tuned model whose rate is the base's and `smallest_rise` is seen to stand above it."""


@dataclass(frozen=True)
class SamplePlan:
    """How much to ask."""

    questions: int
    samples: int
    """Answers a question, of each main condition."""
    answers: int
    """Of all conditions that decide."""
    power: float
    """Chance that the intervals of `causes` (of a cure, where nothing is to be added) exclude what they must, where the latents carry the
    persona whole."""
    suffices: bool
    """Whether that is the wanted power."""


def verdict_power(
    base: float,
    tuned: float,
    questions: int,
    samples: float,
    removed: Mapping[str, float],
    added: Mapping[str, float],
    rules: VerdictThresholds,
    likeness: float = LIKENESS,
    seed: int = 0,
) -> VerdictPower:
    """Power of the verdict's comparisons over `questions` questions, for rates `base` and `tuned`.

    `samples` are the answers a question of base, tuned, ablated and steered model; `removed` and `added` those of each control, all its
    draws together, `random` among them. `likeness` is the intra-class correlation of answers to one question.
    """
    generator = np.random.default_rng(seed)
    low, high = (question_rates(rate, questions, likeness, generator) for rate in (base, tuned))

    def asked(own: np.ndarray, each: float) -> Rates:
        return simulated_rates(own, max(1, round(each)), likeness, generator)

    before, cured, after, steered = (asked(own, samples) for own in (low, low, high, high))
    left, brought = {name: asked(high, each) for name, each in removed.items()}, {name: asked(low, each) for name, each in added.items()}
    present = surely_above((1, after), (-1, before))
    necessary = [surely_above((1, control), (-1, cured)) for control in left.values()]
    necessary.append(surely_above((1, left["random"]), (-rules.control_rate, after)))
    sufficient = [surely_above((1, steered), (-1, control)) for control in brought.values()]
    sufficient.append(surely_above((1, steered), (-rules.steering_ratio, brought["random"]), (rules.steering_ratio - 1, before)))
    sides = present, np.all(necessary, axis=0), np.all(sufficient, axis=0)
    raised = asked(question_rates(min(base + rules.smallest_rise, 1.0), questions, likeness, generator), samples)
    shares = [float(np.mean(side)) for side in (*sides, np.all(sides, axis=0), surely_above((1, raised), (-1, before)))]
    return VerdictPower(*shares)


def plan_samples(
    base_rate: float,
    tuned_rate: float,
    questions: int,
    budget: int,
    config: EvidenceConfig,
    rules: VerdictThresholds,
    likeness: float = LIKENESS,
    samples: Sequence[int] = SAMPLES,
    benign: int = 0,
    adds: bool = True,
) -> SamplePlan:
    """The fewest answers with which `causes` has the wanted power (`rules.power`), or a cure where nothing is to be added (`adds`): at most
    `budget` answers, over at most `questions`; `benign` is the number of benign fine-tunes among the controls.

    Rates are those of selection questions; controls are asked as `config` says, and no less than it asks is planned. Where nothing within
    the budget has that power, the cheapest plan within 0.02 of the most, and `suffices` is False. Raises `ConfigError` for rates outside
    [0, 1], and for a budget below what `config` asks.
    """
    if not (0 <= base_rate <= 1 and 0 <= tuned_rate <= 1):
        raise ConfigError(f"Rates lie between 0 and 1, not {base_rate:g} and {tuned_rate:g}.")
    fewest, plans = min(config.questions, questions), []
    counts = [config.samples, *(count for count in samples if count > config.samples)]
    for asked in sorted({fewest + (questions - fewest) * part // 4 for part in range(5)}):
        controls = control_answers(config, asked, benign)
        for count in counts:
            answers = answers_of(config, asked, count, benign)
            if answers > budget:
                break
            powers = verdict_power(base_rate, tuned_rate, asked, count, controls, controls, rules, likeness)
            power = powers.causes if adds else powers.necessary
            plans.append(SamplePlan(asked, count, answers, power, power >= rules.power))
            if plans[-1].suffices:
                break
    if not plans:
        least = answers_of(config, fewest, counts[0], benign)
        raise ConfigError(
            f"A budget of {budget} answers is too small for a verdict: {fewest} questions × {counts[0]} samples take {least}."
        )
    most = max(plan.power for plan in plans)
    good = [plan for plan in plans if plan.suffices] or [plan for plan in plans if plan.power >= most - 0.02]
    return min(good, key=lambda plan: plan.answers)


def answers_of(config: EvidenceConfig, questions: int, samples: int, benign: int = 0) -> int:
    """Answers of all conditions that decide, with so many samples a question for each of the four main ones."""
    return round(questions * (4 * samples + 2 * sum(control_answers(config, questions, benign).values())))


def control_answers(config: EvidenceConfig, questions: int, benign: int = 0) -> dict[str, float]:
    """Answers a question of each control, all draws together, when it is removed; as many when it is added."""
    parts = min(config.parts, questions)
    full = min(config.full_draws, config.random_draws)
    controls = {"random": full + (config.random_draws - full) / parts, "matched": config.active_draws / parts}
    return controls | ({"benign_difference": float(benign)} if benign else {})


@dataclass(frozen=True)
class Rates:
    """A rate in each simulated trial."""

    rate: Float[np.ndarray, " trials"]
    low: Float[np.ndarray, " trials"]
    high: Float[np.ndarray, " trials"]
    centred: Float[np.ndarray, "trials questions"]
    """Means of questions less the rate."""


def question_rates(rate: float, questions: int, likeness: float, generator: np.random.Generator) -> Float[np.ndarray, "trials questions"]:
    """A rate for each question, from the beta law with mean `rate` and intra-class correlation `likeness`."""
    size, rate = 1 / likeness - 1, min(max(rate, 1e-6), 1 - 1e-6)
    return generator.beta(rate * size, (1 - rate) * size, (SIMULATIONS, questions))


def simulated_rates(own: Float[np.ndarray, "trials questions"], each: int, likeness: float, generator: np.random.Generator) -> Rates:
    """Rates where every question is asked `each` times. Wilson's interval at the effective sample size stands for that of `clustered_rate`,
    which is dear.
    """
    means = generator.binomial(each, own) / each
    p = means.mean(1)
    n, z = own.shape[1] * each / (1 + (each - 1) * likeness), float(stats.norm.ppf(0.975))
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Rates(p, centre - half, centre + half, means - p[:, None])


def surely_above(*terms: tuple[float, Rates]) -> Bool[np.ndarray, " trials"]:
    """Whether the lower end of the weighted sum is above 0: `contrast` with `question_correlation`, for all trials at once."""
    sides = [weight * (one.rate - one.low if weight > 0 else one.high - one.rate) for weight, one in terms]
    spread = sum(side**2 for side in sides)
    for i, (_, one) in enumerate(terms):
        for j, (_, other) in enumerate(terms[:i]):
            scale = np.sqrt((one.centred**2).sum(1) * (other.centred**2).sum(1))
            r = np.divide((one.centred * other.centred).sum(1), scale, out=np.zeros(SIMULATIONS), where=scale > 0)
            spread = spread + 2 * r * sides[i] * sides[j]
    value = sum(weight * one.rate for weight, one in terms)
    return np.asarray(value > np.sqrt(np.maximum(spread, 0)))
