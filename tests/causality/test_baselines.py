"""What latents give beyond baselines: the words, on rates made by hand."""

from __future__ import annotations

import math

import pytest

from interp.causality.baselines import beyond_baselines
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import Outcome
from interp.stats.intervals import wilson
from interp.stats.rates import Rate


def outcome(hits: int, n: int = 48, coherence: float = 0.95) -> Outcome:
    return Outcome(Rate(hits / n, *wilson(hits / n, n), n, 0), coherence)


def said(treated: str = "ablated", edit: str = "ablation", **outcomes: Outcome) -> str | None:
    named = {name if name == treated else f"{name}_{edit}": one for name, one in outcomes.items()}
    return beyond_baselines({"base": outcome(1), "tuned": outcome(47)} | named, VerdictThresholds(), "rude")


@pytest.mark.parametrize(
    ("latents", "difference", "vector", "words"),
    [
        (2, 1, 40, "does as well as removing the latents: 2 % [0–11] rude, 95 % coherent with the mean difference against 4 %"),
        (20, 0, 40, "Removing the mean difference does surely more than removing the latents"),
        (1, 30, 40, "does surely more than any baseline, the best of which is the mean difference: 62 %"),
        (8, 12, 40, "cannot be told"),
        (47, 48, 46, "Removing neither the latents nor a baseline surely does anything"),
    ],
)  # fmt: skip
def test_removing(latents: int, difference: int, vector: int, words: str) -> None:
    text = said(ablated=outcome(latents), mean_difference=outcome(difference), persona_vector=outcome(vector))
    assert text is not None
    assert words in text
    assert ("not more" in text) == ("as well" in words)


def test_one_of_several_baselines_must_win_by_more() -> None:
    """Six against none of 48 are surely more where one baseline is compared, not where one of four is."""
    one = {"ablated": outcome(6), "mean_difference": outcome(0)}
    alone = said(**one)
    assert alone is not None
    assert "does surely more than removing the latents" in alone
    named = {f"{name}_ablation": outcome(0) for name in ("mean_difference", "persona_vector", "principal_directions")}
    named |= {"ablated": outcome(6), "mean_difference_own_removal": outcome(0), "base": outcome(1), "tuned": outcome(47)}
    several = beyond_baselines(named, VerdictThresholds(), "rude")
    assert several is not None
    assert "surely more" not in several


def test_what_breaks_the_model_does_not_compete() -> None:
    broken = outcome(0, coherence=0.2)
    text = said(ablated=outcome(20), mean_difference=broken, principal_directions=outcome(45))
    assert text is not None
    assert "with the principal directions" in text
    assert "surely more than any baseline" in text
    text = said(ablated=outcome(20), mean_difference=broken)
    assert text == "Removing the mean difference leaves too few answers coherent; removing the latents does not."
    text = said(ablated=broken, mean_difference=outcome(1))
    assert text is not None
    assert text.startswith("Removing the latents leaves 20 % of the answers coherent")


def test_the_mean_difference_may_be_removed_in_its_own_way() -> None:
    named = {"ablated": outcome(1), "mean_difference_ablation": outcome(0, coherence=0.1), "mean_difference_own_removal": outcome(1)}
    text = beyond_baselines({"base": outcome(1), "tuned": outcome(47)} | named, VerdictThresholds(), "rude")
    assert text is not None
    assert text.startswith("Removing the mean difference in the way that suits it best does as well")


def test_adding_counts_the_other_way() -> None:
    text = said("steered", "steering", steered=outcome(20), mean_difference=outcome(45), persona_vector=outcome(10))
    assert text is not None
    assert text.startswith("Adding the mean difference does surely more than adding the latents")
    text = said("steered", "steering", steered=outcome(45), mean_difference=outcome(20), persona_vector=outcome(10))
    assert text is not None
    assert text.startswith("Adding the latents does surely more than any baseline")


def test_a_baseline_that_was_not_scored_is_no_baseline() -> None:
    unscored = Outcome(Rate(math.nan, 0.0, 1.0, 0, 48), 0.95)
    text = said(ablated=outcome(1), mean_difference=unscored, persona_vector=outcome(40))
    assert text is not None
    assert "with the persona vector" in text


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert said() is None
    assert said(ablated=outcome(1)) is None
