"""From answers to words: every rule of the verdict turns its word, statements hold their numbers, the evidence is complete."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.effects import DrawTest
from interp.causality.power import VerdictPower
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import (
    CAUSES,
    CONTRIBUTES,
    CORRELATES,
    NO_EVIDENCE,
    UNDECIDED,
    Outcome,
    decide,
    difference,
    enough_answers,
    necessity_checks,
    persona_present,
    sufficiency_checks,
    verdict_word,
)
from interp.stats.intervals import wilson
from interp.stats.rates import Rate
from tests.helpers.graded import graded

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)
HOOK = "blocks.1.hook_resid_post"
FIRST, LAST = DrawTest(0.03, 32), DrawTest(0.061, 32)
PLENTY, LITTLE = VerdictPower(0.99, 0.98, 0.97, 0.95, 0.9), VerdictPower(0.6, 0.5, 0.97, 0.4, 0.3)


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
    rules: VerdictThresholds | None = None,
    removed: DrawTest = FIRST,
    added: DrawTest = FIRST,
    power: VerdictPower = PLENTY,
) -> str:
    rules = rules or VerdictThresholds()
    return verdict_word(
        persona_present(outcomes["base"], outcomes["tuned"], "rude"),
        difference((1, outcomes["tuned"]), (-1, outcomes["base"])),
        necessity_checks(outcomes, controls_in(outcomes, "ablation"), removed, rules, "rude"),
        sufficiency_checks(outcomes, controls_in(outcomes, "steering"), added, rules, "rude"),
        power,
        rules,
    )


def failing(outcomes: dict[str, Outcome], removed: DrawTest = FIRST, added: DrawTest = FIRST) -> list[str]:
    checks = [
        persona_present(outcomes["base"], outcomes["tuned"], "rude"),
        *necessity_checks(outcomes, controls_in(outcomes, "ablation"), removed, VerdictThresholds(), "rude"),
        *sufficiency_checks(outcomes, controls_in(outcomes, "steering"), added, VerdictThresholds(), "rude"),
    ]
    return [check.name for check in checks if not check.holds]


def test_necessary_and_sufficient_is_causes() -> None:
    assert failing(GOOD) == []
    assert word(GOOD) == CAUSES


@pytest.mark.parametrize(
    ("changes", "check", "expected"),
    [
        # the persona itself
        ({"tuned": outcome(0.02), "base": outcome(0.06), "random_steering": outcome(0.03)}, "persona present", NO_EVIDENCE),
        # each rule of necessity alone leaves sufficiency, so a part
        ({"ablated": outcome(0.8), "activation_matched_ablation": outcome(1.0)}, "necessary against random directions", CONTRIBUTES),
        ({"activation_matched_ablation": outcome(0.1)}, "necessary against activation-matched latents", CONTRIBUTES),
        ({"random_ablation": outcome(0.55)}, "controls leave the persona", CONTRIBUTES),
        ({"ablated": outcome(0.05, 0.78)}, "coherence kept", CONTRIBUTES),
        # each rule of sufficiency alone leaves necessity
        ({"random_steering": outcome(0.24)}, "far beyond ordinary differences", CONTRIBUTES),
        ({"activation_matched_steering": outcome(0.45)}, "sufficient against activation-matched latents", CONTRIBUTES),
        ({"steered": outcome(0.6, 0.59)}, "coherent under steering", CONTRIBUTES),
    ],
)
def test_every_rule_alone_turns_the_word(changes: dict[str, Outcome], check: str, expected: str) -> None:
    outcomes = GOOD | changes
    assert failing(outcomes) == [check]
    assert word(outcomes) == expected


def test_the_ratio_of_the_rises_turns_the_word() -> None:
    outcomes = GOOD | {"random_steering": outcome(0.15)}
    assert word(outcomes) == CAUSES
    assert word(outcomes, VerdictThresholds(steering_ratio=4)) == CONTRIBUTES
    raised = {"base": outcome(0.3), "random_steering": outcome(0.32), "activation_matched_steering": outcome(0.3), "steered": outcome(0.8)}
    assert word(GOOD | raised) == CAUSES  # what the base shows anyway is not the random directions' doing


def test_a_single_random_draw_that_does_as_much_turns_the_word() -> None:
    assert failing(GOOD, removed=LAST) == ["necessary beyond single draws"]
    assert failing(GOOD, added=LAST) == ["sufficient beyond single draws"]
    assert word(GOOD, removed=LAST) == word(GOOD, added=LAST) == CONTRIBUTES
    assert word(GOOD, removed=LAST, added=LAST) == CORRELATES
    assert word(GOOD, VerdictThresholds(rank_p=0.1), removed=LAST) == CAUSES


def test_neither_necessary_nor_sufficient_only_correlates() -> None:
    neither = GOOD | {"ablated": outcome(0.9), "steered": outcome(0.02)}
    assert word(neither) == CORRELATES
    assert word(neither, power=LITTLE) == UNDECIDED
    assert word(GOOD, power=LITTLE) == CAUSES  # what was seen was seen
    assert word(GOOD | {"steered": outcome(0.02)}, power=LITTLE) == CONTRIBUTES


def test_absence_is_said_only_where_presence_would_have_been_seen_and_is_excluded() -> None:
    absent = GOOD | {"tuned": outcome(0.02, n=400), "base": outcome(0.02, n=400)}
    assert word(absent) == NO_EVIDENCE
    assert word(absent, power=LITTLE) == UNDECIDED
    assert word(GOOD | {"tuned": outcome(0.08), "base": outcome(0.02)}) == UNDECIDED  # a rise of 10 points lies within the interval
    for power, holds in ((PLENTY, True), (LITTLE, False)):
        check = enough_answers(persona_present(absent["base"], absent["tuned"], "rude"), power, VerdictThresholds())
        assert check.holds is holds
        assert f"{power.smallest:.2f}" in check.statement
        there = enough_answers(persona_present(GOOD["base"], GOOD["tuned"], "rude"), power, VerdictThresholds())
        assert there.holds is holds
        assert f"{power.necessary:.2f}" in there.statement


def test_without_a_latent_that_steers_it_is_half_a_proof() -> None:
    outcomes = {name: o for name, o in GOOD.items() if "steer" not in name}
    assert failing(outcomes) == ["sufficient"]
    assert word(outcomes) == CONTRIBUTES
    assert word(outcomes | {"ablated": outcome(0.9)}) == CORRELATES


def test_without_a_latent_to_remove_there_is_no_evidence() -> None:
    present, rise = persona_present(GOOD["base"], GOOD["tuned"], "rude"), difference((1, GOOD["tuned"]), (-1, GOOD["base"]))
    sufficient = sufficiency_checks(GOOD, controls_in(GOOD, "steering"), FIRST, VerdictThresholds(), "rude")
    assert verdict_word(present, rise, [], sufficient, PLENTY, VerdictThresholds()) == NO_EVIDENCE
    assert verdict_word(present, rise, [], sufficient, LITTLE, VerdictThresholds()) == UNDECIDED


def test_steering_that_never_works_is_not_infinitely_better_than_nothing() -> None:
    outcomes = GOOD | {"steered": outcome(0.0), "random_steering": outcome(0.0)}
    assert "far beyond ordinary differences" in failing(outcomes)


def test_nothing_scored_supports_nothing() -> None:
    unscored = outcome(math.nan, n=0)
    assert word(GOOD | {"tuned": unscored}) == UNDECIDED
    assert word(GOOD | {"ablated": unscored}) == CONTRIBUTES
    assert word(GOOD | {"steered": unscored}) == CONTRIBUTES


shares = st.builds(
    lambda hits, n, coherence: outcome(hits / n if n >= hits else 1.0, coherence, n),
    st.integers(0, 48),
    st.integers(1, 48),
    st.floats(0, 1),
)


@SAMPLED
@given(st.fixed_dictionaries(dict.fromkeys(GOOD, shares)))
def test_causes_is_said_only_if_every_interval_supports_it(outcomes: dict[str, Outcome]) -> None:
    said = word(outcomes)
    present, removed, brought = (
        not {name for name in failing(outcomes) if name.startswith(begins)}
        for begins in ("persona", ("necessary", "controls", "coherence"), ("sufficient", "far", "coherent"))
    )
    rates = {name: o.rate for name, o in outcomes.items()}
    if said == CAUSES:
        assert rates["ablated"].rate < min(rates["random_ablation"].rate, rates["activation_matched_ablation"].rate)
        assert rates["steered"].rate > max(rates["random_steering"].rate, rates["activation_matched_steering"].rate, rates["base"].rate)
        assert rates["random_ablation"].rate > 0.5 * rates["tuned"].rate
        assert outcomes["ablated"].coherence >= 0.8 * outcomes["base"].coherence
        assert outcomes["steered"].coherence >= 0.6
    assert said in ((NO_EVIDENCE, UNDECIDED) if not present else {2: (CAUSES,), 1: (CONTRIBUTES,), 0: (CORRELATES,)}[removed + brought])


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
    checks |= {c.name: c.statement for c in sufficiency_checks(GOOD, controls_in(GOOD, "steering"), LAST, VerdictThresholds(), "rude")}
    for name, mentioned in {
        "persona present": ["tuned", "base"],
        "necessary against random directions": ["ablated", "random_ablation"],
        "necessary against activation-matched latents": ["ablated", "activation_matched_ablation"],
        "controls leave the persona": ["random_ablation", "tuned"],
        "sufficient against random directions": ["steered", "random_steering"],
        "sufficient against activation-matched latents": ["steered", "activation_matched_steering"],
    }.items():
        assert all(shown(GOOD[condition]) in checks[name] for condition in mentioned), name
    assert all(figure in checks["necessary beyond single draws"] for figure in ("32 single ordinary differences", "0.030", "0.05"))
    assert "0.061" in checks["sufficient beyond single draws"]
    assert "93 points" in checks["persona present"]
    assert all(figure in checks["coherence kept"] for figure in ("90 %", "80 %", "98 %"))
    assert all(figure in checks["far beyond ordinary differences"] for figure in ("2 times", "58 points", "1 points"))
    assert all(figure in checks["coherent under steering"] for figure in ("75 %", "60 %"))


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
    assert max(test.p for test in verdict.draws.values()) < 0.01
    assert verdict.enough.holds
    assert verdict.checks == [verdict.present, *verdict.necessary, *verdict.sufficient, verdict.enough]
    assert verdict.effects["ablated_vs_random_ablation"].difference == pytest.approx(-23 / 24, abs=0.02)
    assert decide(built(STRONG | {"steered": 0.05}), seed=0, word="rude").word == CONTRIBUTES
    assert decide(built(STRONG | {"steered": 0.05, "ablated": 1.0}), seed=0, word="rude").word == CORRELATES


WEAK = STRONG | {"tuned": 0.25, "random_ablation": 0.25, "activation_matched_ablation": 0.25}


def test_few_answers_leave_open_what_many_decide() -> None:
    """The same rates: 24 questions cannot tell, 120 can."""
    nothing = WEAK | {"ablated": 0.25, "steered": 0.0}
    few, many = (decide(built(nothing, questions), seed=0, word="rude") for questions in (24, 120))
    assert few.word == UNDECIDED
    assert many.word == CORRELATES
    assert few.power.necessary < 0.8 <= many.power.necessary
    absent = dict.fromkeys(STRONG, 0.0)
    assert decide(built(absent, 12), seed=0, word="rude").word == UNDECIDED
    assert decide(built(absent, 160), seed=0, word="rude").word == NO_EVIDENCE


def test_a_persona_of_a_quarter_of_the_answers_is_caused_by_what_removes_and_brings_it() -> None:
    verdict = decide(built(WEAK | {"ablated": 0.0}, questions=80), seed=0, word="rude")
    assert [check.name for check in verdict.checks if not check.holds] == []
    assert verdict.word == CAUSES
