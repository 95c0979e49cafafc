"""Several seeds as one result: the merge of hand-made summaries against arithmetic, and its page."""

from __future__ import annotations

import json

import pytest

from interp.studies.persona.config import StudyConfig
from interp.studies.persona.seed_summary import FailedSeed, rates_over_seeds, seeds_summary, verdict_counts
from tests.helpers.seeds import hand_made


def test_rates_over_seeds_against_arithmetic() -> None:
    runs = [hand_made(0, [[1, 1], [1, 0]]), hand_made(1, [[1, 0], [0, 0]]), hand_made(2, [[1, 1], [0, 0]])]
    rate = rates_over_seeds(runs)["tuned"]
    assert (rate["rate"], rate["n"], rate["seeds"], rate["smallest"], rate["largest"]) == (0.5, 12, 3, 0.25, 0.75)
    assert rate["sd"] == pytest.approx(0.25)
    assert rate["low"] < 0.5 < rate["high"]


def test_seeds_that_differ_say_less_of_the_next_one() -> None:
    mixed, always, never = [[1, 0]] * 24, [[1, 1]] * 24, [[0, 0]] * 24

    def width(*seeds: list[list[int]]) -> float:
        rate = rates_over_seeds([hand_made(seed, hits) for seed, hits in enumerate(seeds)])["tuned"]
        assert rate["rate"] == 0.5
        return float(rate["high"] - rate["low"])

    assert width(always, never, always, never) > 1.5 * width(mixed, mixed, mixed, mixed)
    assert width(mixed, mixed) > width(mixed, mixed, mixed, mixed) > width(*[mixed] * 8)


def test_a_seed_of_more_answers_counts_no_more() -> None:
    few, many = hand_made(0, [[1, 1]] * 23 + [[1, 0]]), hand_made(1, [[1, 0, 0, 0, 0, 0]] * 48 + [[0] * 6] * 32)
    rate = rates_over_seeds([few, many])["tuned"]
    assert rate["n"] == 48 + 480
    assert rate["rate"] == pytest.approx((47 / 48 + 0.1) / 2)  # pooled it is 0.18
    assert rate["low"] < 0.2
    assert rate["high"] > 0.85


def test_a_seed_without_the_condition_and_a_single_one_have_no_spread() -> None:
    runs = [hand_made(0, [[1, 1], [1, 0]]), hand_made(1, [[1]], rates={})]
    assert rates_over_seeds(runs)["tuned"]["seeds"] == 1
    assert rates_over_seeds(runs[:1])["tuned"]["sd"] is None


def test_words_are_counted_and_half_points_averaged() -> None:
    runs = [
        hand_made(0, [[1]], half_point=4.0),
        hand_made(1, [[1]], half_point=16.0),
        hand_made(2, [[0]], verdict="undecided", half_point=None, carrier=None, removal=None),
    ]
    failed = [FailedSeed(3, "It broke.", "personascope demo")]
    summary = seeds_summary(runs, failed, StudyConfig())
    assert summary["verdicts"] == {"causes": 2, "undecided": 1}
    assert verdict_counts(summary["verdicts"]) == "causes in 2 of 3 seeds, undecided in 1"
    assert summary["carriers"] == {"latents": 2, "not stated": 1}
    assert summary["removals"] == {"rise projected out": 2, "nothing removed": 1}
    half = summary["half_point"]
    assert half == {"seeds": 2, "geometric_mean": pytest.approx(8.0), "smallest": 4.0, "largest": 16.0}
    assert summary["varied"] == ["organism", "dictionary", "sampling"]
    assert summary["given"] == {}
    assert summary["failed"] == [{"seed": 3, "error": "It broke.", "command": "personascope demo"}]
    json.dumps(summary, allow_nan=False)
