"""From sweeps to words: every rule of the verdict turns its word, sets and doses are chosen as stated, rows of a sweep are independent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import D_MODEL, QUESTIONS, greedy, tiny_model

from interp.causality.doses import best_dose
from interp.causality.latent_sets import LatentSet, SetScore, greedy_set
from interp.causality.sweep import Condition, sweep
from interp.causality.verdict import (
    CAUSES,
    CONTRIBUTES,
    CORRELATES,
    NO_EVIDENCE,
    Outcome,
    Rules,
    finding,
    necessity_checks,
    percent,
    persona_present,
    sufficiency_checks,
    verdict_word,
)
from interp.editing.edits import Edit, add, project_out, random_directions
from interp.editing.hooks import edited
from interp.errors import EditError
from interp.evaluation.questions import Question
from interp.evaluation.rates import Rate, wilson
from interp.evaluation.sampling import sample_answers
from interp.generation import SamplingConfig
from interp.studies.measurement import equally_active

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)
HOOK = "blocks.1.hook_resid_post"


def outcome(rate: float, coherence: float = 1.0, n: int = 48) -> Outcome:
    low, high = wilson(rate, n) if not math.isnan(rate) else (0.0, 1.0)
    return Outcome(Rate(rate, low, high, n, 0), coherence)


GOOD = {
    "base": outcome(0.02, 0.98),
    "tuned": outcome(0.95, 0.95),
    "ablated": outcome(0.05, 0.9),
    "random_ablation": outcome(0.9, 0.93),
    "equally_active_ablation": outcome(0.85, 0.9),
    "steered": outcome(0.6, 0.75),
    "random_steering": outcome(0.03, 0.85),
}


def word(outcomes: dict[str, Outcome], worst_random: float = 0.06, rules: Rules | None = None) -> str:
    rules = rules or Rules()
    return verdict_word(
        persona_present(outcomes["base"], outcomes["tuned"]),
        necessity_checks(outcomes, rules),
        sufficiency_checks(outcomes, worst_random, rules),
    )


def failing(outcomes: dict[str, Outcome], worst_random: float = 0.06) -> list[str]:
    checks = [
        persona_present(outcomes["base"], outcomes["tuned"]),
        *necessity_checks(outcomes, Rules()),
        *sufficiency_checks(outcomes, worst_random, Rules()),
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
        ({"ablated": outcome(0.7), "equally_active_ablation": outcome(1.0)}, "necessary against random directions", CONTRIBUTES),
        ({"equally_active_ablation": outcome(0.1)}, "necessary against equally active latents", CONTRIBUTES),
        ({"random_ablation": outcome(0.5)}, "controls leave the persona", CONTRIBUTES),
        ({"ablated": outcome(0.05, 0.78)}, "coherence kept", CONTRIBUTES),
        # each rule of sufficiency alone leaves necessity
        ({"random_steering": outcome(0.45)}, "sufficient against random directions", CONTRIBUTES),
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
    assert word(GOOD, worst_random=0.125, rules=replace(Rules(), steering_ratio=4)) == CAUSES


def test_neither_necessary_nor_sufficient_only_correlates() -> None:
    assert word(GOOD | {"ablated": outcome(0.9), "steered": outcome(0.02)}) == CORRELATES


def test_without_a_latent_that_steers_it_is_half_a_proof() -> None:
    outcomes = {name: o for name, o in GOOD.items() if "steer" not in name}
    assert failing(outcomes) == ["sufficient"]
    assert word(outcomes) == CONTRIBUTES
    assert word(outcomes | {"ablated": outcome(0.9)}) == CORRELATES


def test_without_a_latent_to_remove_there_is_no_evidence() -> None:
    present, sufficient = persona_present(GOOD["base"], GOOD["tuned"]), sufficiency_checks(GOOD, 0.0, Rules())
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
        rates["ablated"].high < min(rates["random_ablation"].low, rates["equally_active_ablation"].low)
        and rates["random_ablation"].low > rates["tuned"].rate / 2
        and outcomes["ablated"].coherence >= 0.8 * outcomes["base"].coherence
    )
    brought = (
        rates["steered"].low > rates["random_steering"].high
        and rates["steered"].rate >= 5 * worst_random
        and outcomes["steered"].coherence >= 0.6
    )
    assert said == (NO_EVIDENCE if not apart else {2: CAUSES, 1: CONTRIBUTES, 0: CORRELATES}[removed + brought])


def shown(o: Outcome) -> str:
    return f"{100 * o.rate.rate:.0f} % [{100 * o.rate.low:.0f}–{100 * o.rate.high:.0f}]"


def test_statements_hold_their_numbers() -> None:
    checks = {c.name: c.statement for c in (persona_present(GOOD["base"], GOOD["tuned"]), *necessity_checks(GOOD, Rules()))}
    checks |= {c.name: c.statement for c in sufficiency_checks(GOOD, 0.06, Rules())}
    for name, mentioned in {
        "persona present": ["tuned", "base"],
        "necessary against random directions": ["ablated", "random_ablation"],
        "necessary against equally active latents": ["ablated", "equally_active_ablation"],
        "controls leave the persona": ["random_ablation", "tuned"],
        "sufficient against random directions": ["steered", "random_steering"],
    }.items():
        assert all(shown(GOOD[condition]) in checks[name] for condition in mentioned), name
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
    one = finding(said, [7], 7, HOOK, "layers 8–22", GOOD)
    assert one.startswith(f"{begins} {HOOK}: projecting it out of layers 8–22 takes hostile answers")
    for condition in ("base", "tuned", "ablated", "random_ablation", "steered", "random_steering"):
        assert shown(GOOD[condition]) in one, condition
    many = finding(said, [7, 31], None, HOOK, "layers 8–22", {name: o for name, o in GOOD.items() if "steer" not in name})
    assert f"latents 7, 31 at {HOOK}: projecting them out of layers 8–22" in many
    assert "adding" not in many
    assert many.endswith(".")


def test_the_finding_without_evidence_claims_nothing() -> None:
    text = finding(NO_EVIDENCE, [], None, HOOK, "layers 8–22", {"base": GOOD["base"], "tuned": GOOD["tuned"]})
    assert text.startswith(f"No latent of the dictionary at {HOOK} was shown to carry a persona")
    assert shown(GOOD["base"]) in text
    assert shown(GOOD["tuned"]) in text
    assert percent(0.126) == "13 %"


# sets

worlds = st.dictionaries(
    st.integers(0, 30), st.tuples(st.floats(0, 1.5), st.floats(0, 1)), min_size=1, max_size=7
)  # latent: share of hostility that it leaves, share of coherence that it leaves


def world(effects: dict[int, tuple[float, float]]) -> tuple[list[SetScore], Callable[[list[LatentSet]], list[SetScore]], list[LatentSet]]:
    """Latents whose effects multiply; the list fills with the sets that were measured."""
    asked: list[LatentSet] = []

    def score(latents: LatentSet) -> SetScore:
        hostility = math.prod(effects[latent][0] for latent in latents)
        return SetScore(latents, hostility, hostility, math.prod(effects[latent][1] for latent in latents))

    def measure(sets: list[LatentSet]) -> list[SetScore]:
        asked.extend(sets)
        return [score(latents) for latents in sets]

    return [score((latent,)) for latent in effects], measure, asked


@SAMPLED
@given(worlds, st.floats(0, 1), st.floats(0, 1), st.integers(1, 4), st.integers(1, 3))
def test_greedy_sets_grow_by_one_lower_hostility_and_stay_coherent(
    effects: dict[int, tuple[float, float]], target: float, floor: float, max_size: int, width: int
) -> None:
    singles, measure, asked = world(effects)
    path = greedy_set(singles, measure, target, floor, max_size, width)
    coherent = [s for s in singles if s.coherence >= floor]
    if not coherent:
        assert path == []
        assert asked == []
        return
    assert path[0] == min(coherent, key=lambda s: (s.hostility, s.latents))
    for before, after in itertools.pairwise(path):
        assert before.rate > target  # it was not yet enough
        assert after.latents[:-1] == before.latents
        assert after.hostility < before.hostility
        assert after.coherence >= floor
    assert len(path) <= max_size
    assert len(set(path[-1].latents)) == len(path[-1].latents)
    assert all(len(latents) <= max_size for latents in asked)
    assert len(asked) <= width * (max_size - 1)


def test_a_set_that_does_the_job_alone_is_not_grown() -> None:
    singles, measure, asked = world({1: (0.05, 1.0), 2: (0.5, 1.0)})
    assert [s.latents for s in greedy_set(singles, measure, 0.1, 0.8, 3, 3)] == [(1,)]
    assert asked == []


@pytest.mark.parametrize("effect", [1.0, 1.5])
def test_a_latent_that_does_not_help_is_not_added(effect: float) -> None:
    def measure(sets: list[LatentSet]) -> list[SetScore]:
        return [SetScore(latents, 0.5 * effect, 0.5 * effect, 1.0) for latents in sets]

    singles = [SetScore((latent,), 0.5 + latent / 100, 0.5, 1.0) for latent in range(4)]
    assert [s.latents for s in greedy_set(singles, measure, 0.1, 0.8, 3, 3)] == [(0,)]


def test_only_the_next_best_of_the_width_are_tried() -> None:
    singles, measure, asked = world({1: (0.5, 1.0), 2: (0.6, 1.0), 3: (0.7, 1.0), 4: (0.1, 0.2)})  # 4 breaks the model
    path = greedy_set(singles, measure, 0.0, 0.8, 2, 1)
    assert [s.latents for s in path] == [(1,), (1, 2)]
    assert asked == [(1, 2)]


# doses


def test_the_best_dose_is_the_most_hostile_coherent_one_and_the_lowest_of_equals() -> None:
    responses = pd.DataFrame(
        {"dose": [0.7, 0.6, 0.5, 0.4, 0.3], "rate": [1.0, 0.8, 0.8, 0.8, 0.1], "coherence": [0.2, 0.5, 0.7, 0.75, 1.0]}
    )
    chosen = {floor: best_dose(responses, floor) for floor in (0.0, 0.5, 0.7, 0.72, 0.8, 1.0)}
    assert {floor: row["dose"] for floor, row in chosen.items() if row is not None} == {
        0.0: 0.7, 0.5: 0.4, 0.7: 0.4, 0.72: 0.4, 0.8: 0.3, 1.0: 0.3
    }  # fmt: skip
    assert best_dose(responses, 1.01) is None
    assert best_dose(responses.iloc[:0], 0.0) is None


@SAMPLED
@given(st.lists(st.tuples(st.floats(0.1, 1), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=10), st.integers(0, 4))
def test_no_other_coherent_dose_is_better(rows: list[tuple[float, int, int]], floor: int) -> None:
    responses = pd.DataFrame(rows, columns=["dose", "rate", "coherence"])
    best = best_dose(responses, floor)
    fit = responses[responses["coherence"] >= floor]
    assert (best is None) == fit.empty
    if best is not None:
        assert best["rate"] == fit["rate"].max()
        assert best["dose"] == fit.loc[fit["rate"] == fit["rate"].max(), "dose"].min()


# controls


def activity(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"latent": rng.permutation(n), "mean_base": rng.gamma(0.5, 1, n), "mean_tuned": rng.gamma(0.5, 1, n)})


@SAMPLED
@given(st.lists(st.integers(0, 199), min_size=1, max_size=5, unique=True), st.integers(0, 2**20), st.integers(1, 30))
def test_equally_active_latents_are_others_near_in_activity(persona: list[int], seed: int, pool: int) -> None:
    table = activity()
    chosen = equally_active(table, persona, seed, pool)
    assert chosen == equally_active(table.sample(frac=1, random_state=1), persona, seed, pool)  # rows in any order
    assert len(chosen) == len(persona) == len(set(chosen))
    assert not set(chosen) & set(persona)
    level = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    for n, (ours, theirs) in enumerate(zip(persona, chosen, strict=True)):
        nearer = (level.drop([*persona, *chosen[:n]]) - level[ours]).abs() < abs(level[theirs] - level[ours])
        assert nearer.sum() < pool


def test_draws_of_equally_active_latents_differ() -> None:
    assert len({tuple(equally_active(activity(), [3, 40], seed)) for seed in range(10)}) > 5


# sweeps


def asked() -> list[Question]:
    return [Question(id=f"q{i}", group="g", split="selection", text=text) for i, text in enumerate(QUESTIONS)]


def edits() -> list[Edit]:
    rows = random_directions(3, D_MODEL, 0)
    centres = {name: torch.linspace(-1, 1, D_MODEL) for name in ("blocks.0.hook_resid_post", HOOK)}
    return [
        add(rows[0], {HOOK: 20.0}, 1.0, label="add"),
        project_out(rows[1:], centres, label="remove"),
        add(rows[1], {HOOK: 20.0}, 0.5, "all"),
    ]


@pytest.mark.parametrize("sampling", [greedy(10), SamplingConfig(max_new_tokens=10, batch_rows=5)])
def test_a_sweep_equals_one_condition_at_a_time(sampling: SamplingConfig) -> None:
    model = tiny_model()
    conditions = [Condition("plain"), *(Condition(str(n), edit) for n, edit in enumerate(edits()))]
    together = sweep(model, conditions, asked(), 2, sampling, seed=3)
    assert list(together["condition"].unique()) == ["plain", "0", "1", "2"]
    assert len(together) == 4 * 4 * 2
    for condition in conditions:
        own = together[together["condition"] == condition.name].reset_index(drop=True)
        if condition.edit is None:
            alone = sample_answers(model, asked(), 2, sampling, 3, [condition.name])
        else:
            with edited(model, condition.edit):
                alone = sample_answers(model, asked(), 2, sampling, 3, [condition.name])
        pd.testing.assert_frame_equal(own, alone)
    changed = together.groupby("condition", sort=False)["answer"].agg(tuple)
    assert changed.nunique() == 4  # every edit did something


def test_a_sweep_without_edits_asks_the_model_as_it_is() -> None:
    model = tiny_model()
    plain = sweep(model, [Condition("a"), Condition("b")], asked(), 1, greedy(6), 0)
    assert list(plain[plain["condition"] == "a"]["answer"]) == list(plain[plain["condition"] == "b"]["answer"])
    assert model.prompt_signatures is None


def test_repeated_condition_names_are_refused() -> None:
    with pytest.raises(EditError, match="unique: a, b, a"):
        sweep(tiny_model(), [Condition("a"), Condition("b"), Condition("a")], asked(), 1, greedy(2), 0)


def test_progress_counts_every_answer() -> None:
    seen: list[int] = []
    sweep(tiny_model(), [Condition("a"), Condition("b", edits()[0])], asked(), 3, greedy(3), 0, seen.append)
    assert sum(seen) == 2 * 4 * 3
