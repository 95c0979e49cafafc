"""What the persona goes away with: latents, the mean difference alone, or neither; also where no latent was there to be removed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interp.causality.carrier import carrier
from interp.causality.finding_sentence import finding
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import decide

OWN = "mean_difference_own_removal"
ABOUT = {
    "base": ("base", "baseline", "none"),
    "tuned": ("tuned", "baseline", "none"),
    "ablated": ("tuned", "treatment", "project_out"),
    "random_ablation": ("tuned", "control", "project_out"),
    OWN: ("tuned", "reference", "project_out"),
}


def answers(rates: dict[str, float], coherent: dict[str, float] | None = None) -> pd.DataFrame:
    """48 answers to 24 questions under every condition of `rates`; all questions alike."""
    rows = []
    for condition, rate in rates.items():
        shows = np.arange(48) < round(48 * rate)
        fine = np.arange(48)[::-1] < round(48 * (coherent or {}).get(condition, 1.0))
        rows += [(condition, *ABOUT[condition], f"q{i % 24:02}", bool(shows[i]), bool(fine[i])) for i in range(48)]
    columns = ["condition", "model", "role", "edit", "question_id", "shows_trait", "coherent"]
    return pd.DataFrame(rows, columns=columns).assign(directions="", title="", replicate=0)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({"ablated": 0.0, OWN: 0.0}, "latents"),
        ({"ablated": 0.9, OWN: 0.0}, "mean difference"),
        ({"ablated": 0.9, OWN: 0.9}, "neither"),
        ({OWN: 0.0}, "mean difference"),
        ({OWN: 0.9}, "neither"),
        ({}, None),
    ],
)
def test_the_carrier_is_what_the_persona_goes_away_with(left: dict[str, float], expected: str | None) -> None:
    controls = {"random_ablation": 0.95} if left else {}
    verdict = decide(answers({"base": 0.0, "tuned": 1.0, **controls, **left}), 0, "rude")
    assert carrier(verdict, VerdictThresholds()) == expected


def test_what_leaves_nothing_intelligible_carries_nothing() -> None:
    table = answers({"base": 0.0, "tuned": 1.0, "random_ablation": 0.95, "ablated": 0.0, OWN: 0.0}, {"ablated": 0.5, OWN: 1.0})
    assert carrier(decide(table, 0, "rude"), VerdictThresholds()) == "mean difference"


def test_without_a_persona_there_is_no_carrier() -> None:
    assert carrier(decide(answers({"base": 0.0, "tuned": 0.0, OWN: 0.0}), 0, "rude"), VerdictThresholds()) is None


def test_the_sentence_says_what_the_mean_difference_does_where_no_latent_rose() -> None:
    verdict = decide(answers({"base": 0.0, "tuned": 1.0, "random_ablation": 0.95, OWN: 0.0}), 0, "rude")
    choice = {"persona_latents": [], "steering_latents": []}
    sentence = finding(verdict.word, "rude", choice, "blocks.1.hook_resid_post", "layers 1–2", verdict.outcomes)
    assert sentence.startswith("No latent of the dictionary")
    assert "Without the mean difference of the two models 0 %" in sentence
