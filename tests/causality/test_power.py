"""Power of the verdict: what moves it, that it is what decisions on simulated answers show, and plans within a budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interp.causality.evidence import parts_of
from interp.causality.power import VerdictPower, control_answers, plan_samples, verdict_power
from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from interp.causality.verdict import CAUSES, decide
from interp.core.errors import ConfigError
from tests.causality.test_verdict import ARMS, DESCRIBED

CONFIG, RULES = EvidenceConfig(), VerdictThresholds()


def power(
    base: float, tuned: float, questions: int = 24, samples: float = 2, likeness: float = 0.2, rules: VerdictThresholds = RULES
) -> VerdictPower:
    controls = control_answers(CONFIG, questions)
    return verdict_power(base, tuned, questions, samples, controls, controls, rules, likeness)


def test_power_grows_with_what_is_asked_and_with_the_rate() -> None:
    assert power(0.02, 0.98).causes > 0.99
    rising = [power(0.02, rate).causes for rate in (0.1, 0.2, 0.4)]
    assert rising == sorted(rising)
    assert power(0.02, 0.2, questions=60).causes > power(0.02, 0.2).causes + 0.3
    assert power(0.02, 0.2, samples=8).causes > power(0.02, 0.2).causes + 0.2
    assert power(0.02, 0.2, likeness=0.05).causes > power(0.02, 0.2, likeness=0.4).causes
    assert power(0.02, 0.2, rules=VerdictThresholds(control_rate=0.8)).necessary < power(0.02, 0.2).necessary


def test_without_an_effect_the_power_is_the_false_rate() -> None:
    controls = control_answers(CONFIG, 40)
    same = [verdict_power(0.2, 0.2, 40, 4, controls, controls, RULES, seed=seed) for seed in range(6)]
    for side in ("present", "necessary", "sufficient"):
        assert np.mean([getattr(power, side) for power in same]) <= 0.035


def test_the_smallest_rise_is_that_of_the_rules() -> None:
    assert power(0.02, 0.98, rules=VerdictThresholds(smallest_rise=0.3)).smallest > power(0.02, 0.98).smallest + 0.3


def simulated_answers(base: float, tuned: float, questions: int, samples: int, rng: np.random.Generator) -> pd.DataFrame:
    """Answers of a trial in which the latents carry the persona whole."""
    ids, rows = [f"q{i:02}" for i in range(questions)], []
    low, high = (dict(zip(ids, rng.beta(4 * rate, 4 * (1 - rate), questions), strict=True)) for rate in (base, tuned))
    for condition, about in ARMS.items():
        rates = high if condition in ("tuned", "steered") or condition.endswith("_ablation") else low
        full, draws = ((4, 32) if condition.startswith("random") else (0, 16)) if about[1] == "control" else (1, 1)
        for draw, asked in enumerate(parts_of(ids, draws, full, 4), about[1] == "control"):
            for question in asked * (1 if about[1] == "control" else samples):
                rows.append((condition, *about, question, bool(rng.random() < rates[question]), True, draw))
    return pd.DataFrame(rows, columns=["condition", *DESCRIBED, "question_id", "shows_trait", "coherent", "replicate"])


@pytest.mark.parametrize(("tuned", "samples"), [(0.2, 4), (0.1, 2)])
def test_the_power_is_the_share_of_simulated_trials_that_are_decided_as_causes(tuned: float, samples: int) -> None:
    rng, trials = np.random.default_rng(0), 24
    share = sum(decide(simulated_answers(0.02, tuned, 24, samples, rng), 0, "rude").word == CAUSES for _ in range(trials)) / trials
    assert share == pytest.approx(power(0.02, tuned, samples=samples).causes, abs=0.2)


def test_a_plan_is_the_cheapest_with_the_wanted_power() -> None:
    strong, weak = (plan_samples(0.02, rate, 60, 20_000, CONFIG, RULES) for rate in (0.98, 0.2))
    assert strong.suffices
    assert weak.suffices
    assert min(strong.power, weak.power) >= 0.8
    assert strong.answers < weak.answers
    again = power(0.02, 0.2, weak.questions, weak.samples)
    assert again.causes == weak.power
    assert weak.answers == weak.questions * (4 * weak.samples + 2 * sum(control_answers(CONFIG, weak.questions).values()))
    assert plan_samples(0.02, 0.2, 60, weak.answers - 1, CONFIG, RULES).suffices is False
    assert plan_samples(0.02, 0.2, 60, 20_000, CONFIG, VerdictThresholds(power=0.95)).answers > weak.answers


def test_a_budget_that_does_not_suffice_is_said_and_spent_well() -> None:
    plan = plan_samples(0.02, 0.05, 24, 1500, CONFIG, RULES)
    assert not plan.suffices
    assert plan.power < 0.8
    assert plan.answers <= 1500


def test_no_plan_asks_less_than_the_settings() -> None:
    plan = plan_samples(0.02, 0.98, 60, 20_000, EvidenceConfig(questions=30, samples=3), RULES)
    assert (plan.questions, plan.samples) == (30, 3)


@pytest.mark.parametrize(
    ("given", "message"), [((-0.1, 0.5, 24, 9000), "between 0 and 1"), ((0.1, 0.5, 24, 100), "24 questions × 2 samples take 912")]
)
def test_wrong_plans_are_a_sentence(given: tuple[float, float, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_samples(*given, CONFIG, RULES)
