"""From answers to words: every rule of the verdict turns its word, statements hold their numbers, the evidence is complete."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.effects import RankTest
from interp.causality.finding_sentence import finding
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import (
    CAUSES,
    CONTRIBUTES,
    CORRELATES,
    NO_EVIDENCE,
    Outcome,
    decide,
    necessity_checks,
    percent,
    persona_present,
    sufficiency_checks,
    verdict_word,
    worst_draw,
)
from interp.stats.intervals import wilson
from interp.stats.rates import Rate
from tests.helpers.graded import graded

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)
HOOK = "blocks.1.hook_resid_post"
FIRST, LAST = RankTest(1 / 33, 0, 32), RankTest(2 / 33, 1, 32)


def outcome(rate: float, coherence: float = 1.0, n: int = 48) -> Outcome:
    low, high = wilson(rate, n) if not math.isnan(rate) else (0.0, 1.0)
    return Outcome(Rate(rate, low, high, n, 0), coherence)


GOOD = {
    "base": outcome(0.02, 0.98),
    "tuned": outcome(0.95, 0.95),
    "ablated": outcome(0.05, 0.9),
    "random_ablation": outcome(0.9, 0.93),
    "activation_matched_ablation": outcome(0.85, 0.9),
    "steered": outcome(0.6, 0.75),
    "random_steering": outcome(0.03, 0.85),
    "activation_matched_steering": outcome(0.05, 0.85),
}


WORDS = {"random": "random directions", "activation_matched": "activation-matched latents"}


def controls_in(outcomes: dict[str, Outcome], kind: str) -> dict[str, str]:
    return {f"{name}_{kind}": words for name, words in WORDS.items() if f"{name}_{kind}" in outcomes}


def word(
    outcomes: dict[str, Outcome],
    worst_random: float = 0.06,
    rules: VerdictThresholds | None = None,
    removed: RankTest = FIRST,
    added: RankTest = FIRST,
) -> str:
    rules = rules or VerdictThresholds()
    return verdict_word(
        persona_present(outcomes["base"], outcomes["tuned"], "rude"),
        necessity_checks(outcomes, controls_in(outcomes, "ablation"), removed, rules, "rude"),
        sufficiency_checks(outcomes, controls_in(outcomes, "steering"), added, worst_random, rules, "rude"),
    )


def failing(outcomes: dict[str, Outcome], worst_random: float = 0.06, removed: RankTest = FIRST, added: RankTest = FIRST) -> list[str]:
    checks = [
        persona_present(outcomes["base"], outcomes["tuned"], "rude"),
        *necessity_checks(outcomes, controls_in(outcomes, "ablation"), removed, VerdictThresholds(), "rude"),
        *sufficiency_checks(outcomes, controls_in(outcomes, "steering"), added, worst_random, VerdictThresholds(), "rude"),
    ]
    return [check.name for check in checks if not check.holds]


def test_necessary_and_sufficient_is_causes() -> None:
    assert failing(GOOD) == []
    assert word(GOOD) == CAUSES


@pytest.mark.parametrize(
    ("changes", "check", "expected"),
    [
        # the persona itself
        ({"base": outcome(0.8)}, "persona present", NO_EVIDENCE),
        ({"tuned": outcome(0.05)}, "persona present", NO_EVIDENCE),
        # each rule of necessity alone leaves sufficiency, so a part
        ({"ablated": outcome(0.7), "activation_matched_ablation": outcome(1.0)}, "necessary against random directions", CONTRIBUTES),
        ({"activation_matched_ablation": outcome(0.1)}, "necessary against activation-matched latents", CONTRIBUTES),
        ({"random_ablation": outcome(0.5)}, "controls leave the persona", CONTRIBUTES),
        ({"ablated": outcome(0.05, 0.78)}, "coherence kept", CONTRIBUTES),
        # each rule of sufficiency alone leaves necessity
        ({"random_steering": outcome(0.45)}, "sufficient against random directions", CONTRIBUTES),
        ({"activation_matched_steering": outcome(0.45)}, "sufficient against activation-matched latents", CONTRIBUTES),
        ({"steered": outcome(0.6, 0.59)}, "coherent under steering", CONTRIBUTES),
    ],
)
def test_every_rule_alone_turns_the_word(changes: dict[str, Outcome], check: str, expected: str) -> None:
    outcomes = GOOD | changes
    assert failing(outcomes) == [check]
    assert word(outcomes) == expected


def test_the_ratio_to_the_worst_random_direction_turns_the_word() -> None:
    assert word(GOOD, worst_random=0.12) == CAUSES  # exactly five times
    assert failing(GOOD, worst_random=0.125) == ["far beyond any random direction"]
    assert word(GOOD, worst_random=0.125) == CONTRIBUTES
    assert word(GOOD, worst_random=0.125, rules=VerdictThresholds(steering_ratio=4)) == CAUSES


def test_a_single_random_draw_that_does_as_much_turns_the_word() -> None:
    assert failing(GOOD, removed=LAST) == ["necessary beyond single draws"]
    assert failing(GOOD, added=LAST) == ["sufficient beyond single draws"]
    assert word(GOOD, removed=LAST) == word(GOOD, added=LAST) == CONTRIBUTES
    assert word(GOOD, removed=LAST, added=LAST) == CORRELATES
    assert word(GOOD, removed=LAST, rules=VerdictThresholds(rank_p=0.1)) == CAUSES


def test_neither_necessary_nor_sufficient_only_correlates() -> None:
    assert word(GOOD | {"ablated": outcome(0.9), "steered": outcome(0.02)}) == CORRELATES


def test_without_a_latent_that_steers_it_is_half_a_proof() -> None:
    outcomes = {name: o for name, o in GOOD.items() if "steer" not in name}
    assert failing(outcomes) == ["sufficient"]
    assert word(outcomes) == CONTRIBUTES
    assert word(outcomes | {"ablated": outcome(0.9)}) == CORRELATES


def test_without_a_latent_to_remove_there_is_no_evidence() -> None:
    present, sufficient = (
        persona_present(GOOD["base"], GOOD["tuned"], "rude"),
        sufficiency_checks(GOOD, controls_in(GOOD, "steering"), FIRST, 0.0, VerdictThresholds(), "rude"),
    )
    assert verdict_word(present, [], sufficient) == NO_EVIDENCE


def test_steering_that_never_works_is_not_infinitely_better_than_nothing() -> None:
    outcomes = GOOD | {"steered": outcome(0.0), "random_steering": outcome(0.0)}
    assert "far beyond any random direction" in failing(outcomes, worst_random=0.0)


def test_nothing_scored_supports_nothing() -> None:
    unscored = outcome(math.nan, n=0)
    assert word(GOOD | {"tuned": unscored}) == NO_EVIDENCE
    assert word(GOOD | {"ablated": unscored}) == CONTRIBUTES
    assert word(GOOD | {"steered": unscored}) == CONTRIBUTES


shares = st.builds(
    lambda hits, n, coherence: outcome(hits / n if n >= hits else 1.0, coherence, n),
    st.integers(0, 48),
    st.integers(1, 48),
    st.floats(0, 1),
)


@SAMPLED
@given(st.fixed_dictionaries(dict.fromkeys(GOOD, shares)), st.floats(0, 1))
def test_causes_is_said_only_if_every_interval_supports_it(outcomes: dict[str, Outcome], worst_random: float) -> None:
    said = word(outcomes, worst_random)
    rates = {name: o.rate for name, o in outcomes.items()}
    apart = rates["tuned"].low > rates["base"].high
    removed = (
        rates["ablated"].high < min(rates["random_ablation"].low, rates["activation_matched_ablation"].low)
        and rates["random_ablation"].low > rates["tuned"].rate / 2
        and outcomes["ablated"].coherence >= 0.8 * outcomes["base"].coherence
    )
    brought = (
        rates["steered"].low > max(rates["random_steering"].high, rates["activation_matched_steering"].high)
        and rates["steered"].rate >= 5 * worst_random
        and outcomes["steered"].coherence >= 0.6
    )
    assert said == (NO_EVIDENCE if not apart else {2: CAUSES, 1: CONTRIBUTES, 0: CORRELATES}[removed + brought])


def shown(o: Outcome) -> str:
    return f"{100 * o.rate.rate:.0f} % [{100 * o.rate.low:.0f}–{100 * o.rate.high:.0f}]"


def test_statements_hold_their_numbers() -> None:
    checks = {
        c.name: c.statement
        for c in (
            persona_present(GOOD["base"], GOOD["tuned"], "rude"),
            *necessity_checks(GOOD, controls_in(GOOD, "ablation"), FIRST, VerdictThresholds(), "rude"),
        )
    }
    checks |= {
        c.name: c.statement for c in sufficiency_checks(GOOD, controls_in(GOOD, "steering"), LAST, 0.06, VerdictThresholds(), "rude")
    }
    for name, mentioned in {
        "persona present": ["tuned", "base"],
        "necessary against random directions": ["ablated", "random_ablation"],
        "necessary against activation-matched latents": ["ablated", "activation_matched_ablation"],
        "controls leave the persona": ["random_ablation", "tuned"],
        "sufficient against random directions": ["steered", "random_steering"],
        "sufficient against activation-matched latents": ["steered", "activation_matched_steering"],
    }.items():
        assert all(shown(GOOD[condition]) in checks[name] for condition in mentioned), name
    assert "0 of 32 single random directions" in checks["necessary beyond single draws"]
    assert all(figure in checks["sufficient beyond single draws"] for figure in ("1 of 32", "p = 0.061", "0.05"))
    assert all(figure in checks["coherence kept"] for figure in ("90 %", "80 %", "98 %"))
    assert all(figure in checks["far beyond any random direction"] for figure in ("5 times", "6 %"))
    assert all(figure in checks["coherent under steering"] for figure in ("75 %", "60 %"))


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        (CAUSES, "The persona is carried by latent 7 at"),
        (CONTRIBUTES, "The persona is carried in part by latent 7 at"),
        (CORRELATES, "The persona goes along with, but was not shown to be caused by, latent 7 at"),
    ],
)
def test_the_finding_names_latents_place_and_numbers(said: str, begins: str) -> None:
    one = finding(said, "rude", [7], 7, HOOK, "layers 8–22", GOOD)
    assert one.startswith(f"{begins} {HOOK}: projecting it out of layers 8–22 takes rude answers")
    for condition in ("base", "tuned", "ablated", "random_ablation", "steered", "random_steering"):
        assert shown(GOOD[condition]) in one, condition
    many = finding(said, "rude", [7, 31], None, HOOK, "layers 8–22", {name: o for name, o in GOOD.items() if "steer" not in name})
    assert f"latents 7, 31 at {HOOK}: projecting them out of layers 8–22" in many
    assert "adding" not in many
    assert ("sufficient was not tested" in many) == (said == CONTRIBUTES)
    assert many.endswith(".")


def test_the_finding_without_evidence_claims_nothing() -> None:
    text = finding(NO_EVIDENCE, "rude", [], None, HOOK, "layers 8–22", {"base": GOOD["base"], "tuned": GOOD["tuned"]})
    assert text.startswith(f"No latent of the dictionary at {HOOK} was shown to carry a persona")
    assert shown(GOOD["base"]) in text
    assert shown(GOOD["tuned"]) in text
    assert percent(0.126) == "13 %"


def test_the_worst_draw_is_one_that_was_asked_everything() -> None:
    everything = [f"q{i}" for i in range(8)]
    control = pd.concat([
        graded({q: float(i < 2) for i, q in enumerate(everything)}, draw=1),
        graded({q: float(i < 1) for i, q in enumerate(everything)}, draw=2),
        graded({"q0": 1.0}, draw=3),
    ])  # fmt: skip
    assert worst_draw(control) == 0.25
    assert worst_draw(None) == 0.0


DESCRIBED = ("model", "role", "edit", "directions", "title")
ARMS = {
    "base": ("base", "baseline", "none", "", "Base"),
    "tuned": ("tuned", "baseline", "none", "", "Tuned"),
    "ablated": ("tuned", "treatment", "project_out", "persona latents", "Tuned, persona latents removed"),
    "steered": ("base", "treatment", "add", "persona latent", "Base, persona latent added"),
    **{f"{name}_ablation": ("tuned", "control", "project_out", words, f"Tuned, {words} removed") for name, words in WORDS.items()},
    **{f"{name}_steering": ("base", "control", "add", words, f"Base, {words} added") for name, words in WORDS.items()},
}


def built(rates: dict[str, float], questions: int = 24, draws: int = 32) -> pd.DataFrame:
    """Answers with these shares of hostile ones; a control's draws alike."""
    parts = []
    for condition, rate in rates.items():
        for draw in range(1, draws + 1) if ARMS[condition][1] == "control" else [0]:
            ids = [f"q{i}" for i in range(questions)] if draw < 5 else [f"q{i}" for i in range(draw % 4, questions, 4)]
            hostile = {q: float(i < round(rate * len(ids))) for i, q in enumerate(ids)}
            parts.append(graded(hostile, condition, draw).assign(**dict(zip(DESCRIBED, ARMS[condition], strict=True))))
    return pd.concat(parts, ignore_index=True)


STRONG = {
    "base": 0.0, "tuned": 1.0, "ablated": 0.04, "random_ablation": 1.0, "activation_matched_ablation": 1.0,
    "steered": 0.75, "random_steering": 0.05, "activation_matched_steering": 0.05,
}  # fmt: skip


def test_strong_evidence_is_decided_as_causes_and_weak_as_less() -> None:
    verdict = decide(built(STRONG), seed=0, word="rude")
    assert [check.name for check in verdict.checks if not check.holds] == []
    assert verdict.word == CAUSES
    assert verdict.ranks["ablated"].p == verdict.ranks["steered"].p == pytest.approx(1 / 33)
    assert verdict.effects["ablated_vs_random_ablation"].difference == pytest.approx(-23 / 24, abs=0.02)
    assert decide(built(STRONG | {"steered": 0.05}), seed=0, word="rude").word == CONTRIBUTES
    assert decide(built(STRONG | {"steered": 0.05, "ablated": 1.0}), seed=0, word="rude").word == CORRELATES
    assert decide(built(STRONG | {"tuned": 0.0}), seed=0, word="rude").word == NO_EVIDENCE
