"""Doses: bisection finds the edge of known dose-responses, ranges to ship hold what they promise, the best dose is the stated one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from interp.causality.doses import Line, Point, best_dose, coherent_doses, dose_responses, largest_coherent_doses, ship_range
from interp.causality.sweep import Condition
from interp.core.errors import EditError
from interp.interventions.edits import add, random_directions
from interp.stats.rates import Rate
from tests.helpers.tiny import D_MODEL

SAMPLED = settings(deadline=None, derandomize=True, max_examples=120)
HOOK = "blocks.1.hook_resid_post"
Incoherence = Callable[[float], float]


class Instrument:
    """Measures known functions of the dose, and keeps what it was asked."""

    def __init__(self, incoherence: dict[str, Incoherence], half_width: float = 0.02) -> None:
        self.incoherence, self.half_width = incoherence, half_width
        self.calls: list[list[Point]] = []

    def __call__(self, points: list[Point]) -> pd.DataFrame:
        self.calls.append(points)
        coherence = np.array([1 - self.incoherence[name](dose) for name, dose in points])
        return pd.DataFrame(
            {
                "direction": [name for name, _ in points],
                "dose": [dose for _, dose in points],
                "coherence": coherence,
                "coherence_low": coherence - self.half_width,
                "coherence_high": coherence + self.half_width,
            }
        ).sample(frac=1, random_state=0)  # rows in any order, index out of order


def ramp(edge: float, slope: float, budget: float) -> Incoherence:
    """Rises with the dose and meets the budget at `edge`."""
    return lambda dose: min(1.0, max(0.0, budget + slope * (dose - edge)))


worlds = st.lists(st.tuples(st.floats(0.01, 1.6), st.floats(0.05, 20)), min_size=1, max_size=5)


@SAMPLED
@given(worlds, st.floats(0.02, 0.6), st.integers(0, 8))
def test_bisection_finds_the_edge_of_every_direction_to_the_stated_width(
    edges: list[tuple[float, float]], budget: float, rounds: int
) -> None:
    low, high = 0.1, 1.3
    assume(all(min(abs(edge - low), abs(edge - high)) > 1e-3 for edge, _ in edges))
    instrument = Instrument({f"d{i}": ramp(edge, slope, budget) for i, (edge, slope) in enumerate(edges)})
    found = largest_coherent_doses(instrument, list(instrument.incoherence), low, high, budget, rounds)
    for i, (edge, _slope) in enumerate(edges):
        largest = found.largest[f"d{i}"]
        if edge < low:
            assert largest is None
        elif edge > high:
            assert largest == high
        else:
            assert largest is not None
            assert edge - (high - low) / 2**rounds - 1e-6 <= largest <= edge + 1e-6
    assert found.not_monotone == []
    assert instrument.calls[0] == [(name, dose) for name in found.largest for dose in (low, high)]
    inside = [f"d{i}" for i, (edge, _) in enumerate(edges) if low < edge < high]
    assert [[name for name, _ in call] for call in instrument.calls[1:]] == [inside] * (rounds if inside else 0)  # all in one call a round
    points = [point for call in instrument.calls for point in call]
    assert len(set(points)) == len(points)  # nothing is measured twice
    table = found.responses
    assert sorted(zip(table["direction"], table["dose"], strict=True)) == sorted(points)  # every measured point comes back
    assert list(table["direction"].unique()) == list(found.largest)
    for _, own in table.groupby("direction"):
        assert own["dose"].is_monotonic_increasing


def test_incoherence_of_exactly_the_budget_is_kept() -> None:
    found = largest_coherent_doses(Instrument({"a": lambda dose: 0.1 if dose <= 0.5 else 0.2}), ["a"], 0.3, 0.7, rounds=1)
    assert found.largest == {"a": 0.5}


def test_what_was_not_measured_is_not_coherent() -> None:
    instrument = Instrument({"a": lambda dose: math.nan, "b": lambda dose: math.nan if dose > 0.5 else 0.0})
    assert largest_coherent_doses(instrument, ["a", "b"], 0.3, 0.7, rounds=1).largest == {"a": None, "b": 0.5}


@SAMPLED
@given(st.lists(st.floats(0, 0.5), min_size=17, max_size=17), st.floats(0.01, 0.4), st.floats(0.0, 0.1))
def test_a_coherence_that_rises_with_the_dose_is_told(values: list[float], budget: float, half_width: float) -> None:
    """Any function on the grid of four rounds: told exactly if the measured points contradict the assumption."""
    instrument = Instrument({"a": lambda dose: values[round((dose - 1) * 16)]}, half_width)
    found = largest_coherent_doses(instrument, ["a"], 1.0, 2.0, budget, 4)
    points = sorted(point[1] for call in instrument.calls for point in call)
    truth = {dose: 1 - instrument.incoherence["a"](dose) for dose in points}
    assume(all(abs(1 - c - budget) > 1e-6 for c in truth.values()))
    assume(all(abs(truth[b] - truth[a] - 2 * half_width) > 1e-6 for a in points for b in points))
    pairs = [(truth[a], truth[b]) for a in points for b in points if a < b]
    across = any(1 - lower > budget >= 1 - upper for lower, upper in pairs)
    surely = any(upper - half_width > lower + half_width for lower, upper in pairs)
    assert found.not_monotone == (["a"] if across or surely else [])
    if found.largest["a"] is not None:
        assert 1 - truth[found.largest["a"]] <= budget  # whatever the function: it was measured to be coherent


def test_only_the_directions_that_contradict_are_told() -> None:
    instrument = Instrument(
        {"well": lambda dose: dose / 4, "dip": lambda dose: 0.3 if dose < 1 else 0.0, "wave": lambda dose: 0.05 * (dose < 1)}
    )
    found = largest_coherent_doses(instrument, list(instrument.incoherence), 0.1, 1.0)
    assert found.not_monotone == ["dip", "wave"]
    assert found.largest["dip"] is None  # the lowest dose was incoherent already
    assert found.largest["wave"] == 1.0
    assert len(instrument.calls) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "no range of doses from 0.0 to 1.0"),
        ({"low": 1.0}, "no range of doses"),
        ({"low": math.nan}, "no range of doses"),
        ({"names": ["a", "a"]}, "unique: a, a"),
    ],
)
def test_impossible_searches_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(EditError, match=message):
        largest_coherent_doses(Instrument({"a": lambda dose: 0}), **({"names": ["a"], "low": 0.1, "high": 1.0} | options))  # type: ignore[arg-type]


def test_points_that_were_left_out_or_doubled_are_refused() -> None:
    instrument = Instrument({"a": lambda dose: 0, "b": lambda dose: 0})
    for spoil in (lambda table: table.iloc[1:], lambda table: pd.concat([table, table.iloc[:1]])):
        with pytest.raises(EditError, match=r"4 doses were to be measured, [35] came back"):
            largest_coherent_doses(lambda points, spoil=spoil: spoil(instrument(points)), ["a", "b"], 0.1, 1.0)  # type: ignore[misc]


def test_no_direction_is_no_search() -> None:
    instrument = Instrument({})
    found = largest_coherent_doses(instrument, [], 0.1, 1.0)
    assert (found.largest, found.not_monotone, instrument.calls, found.responses.empty) == ({}, [], [], True)


# dose-responses


def graded(conditions: list[Condition]) -> pd.DataFrame:
    """Ten questions: hostile in as many as ten times the dose, coherent in the others; the first could not be scored."""
    rows = []
    for condition in conditions:
        dose = condition.edit.dose  # type: ignore[union-attr]
        for question in range(10):
            hostile = None if question == 9 else question < round(10 * dose)
            rows.append((condition.name, f"q{question}", hostile, hostile is not None and not hostile))
    return pd.DataFrame(rows, columns=["condition", "question_id", "shows_trait", "coherent"])


def lines() -> list[Line]:
    rows = random_directions(2, D_MODEL, 0)
    return [
        Line("latent 7", "latent", lambda dose: add(rows[0], {HOOK: 20.0}, dose), 20.0, latent=7),
        Line("random 1", "random", lambda dose: add(rows[1], {HOOK: 5.0}, dose), 5.0),
    ]


def test_a_dose_response_holds_rates_with_their_intervals_and_norms() -> None:
    asked: list[list[str]] = []
    table = dose_responses(
        [("latent 7", 0.2), ("random 1", 0.2), ("latent 7", 0.5)],
        lines(),
        lambda conditions: asked.append([c.name for c in conditions]) or graded(conditions),
    )
    assert asked == [["latent 7 at 0.2", "random 1 at 0.2", "latent 7 at 0.5"]]  # one sweep
    assert list(table.columns) == [
        "direction", "kind", "latent", "size", "dose", "absolute_norm", "rate", "low", "high", "n", "unscored",
        "coherence", "coherence_low", "coherence_high",
    ]  # fmt: skip
    assert table["direction"].tolist() == ["latent 7", "random 1", "latent 7"]
    assert table["kind"].tolist() == ["latent", "random", "latent"]
    assert table["latent"].tolist() == [7, pd.NA, 7]
    assert table["absolute_norm"].tolist() == pytest.approx([4.0, 1.0, 10.0])
    assert table["rate"].tolist() == pytest.approx([2 / 9, 2 / 9, 5 / 9])
    assert table["coherence"].tolist() == pytest.approx([0.7, 0.7, 0.4])
    assert table["n"].tolist() == [9] * 3
    assert table["unscored"].tolist() == [1] * 3
    # one answer a question: Jeffreys' interval
    assert (table.loc[2, "low"], table.loc[2, "high"]) == pytest.approx(stats.beta.ppf([0.025, 0.975], 5.5, 4.5), abs=0.002)
    assert (table.loc[2, "coherence_low"], table.loc[2, "coherence_high"]) == pytest.approx(
        stats.beta.ppf([0.025, 0.975], 4.5, 6.5), abs=0.002
    )


def test_bisection_runs_on_dose_responses() -> None:
    found = largest_coherent_doses(
        lambda points: dose_responses(points, lines(), graded), ["random 1", "latent 7"], 0.1, 0.9, budget=0.4, rounds=3
    )
    assert found.largest == {"random 1": pytest.approx(0.3), "latent 7": pytest.approx(0.3)}  # the one without a score is incoherent too
    assert found.responses["direction"].tolist() == ["random 1"] * 5 + ["latent 7"] * 5
    assert found.responses["latent"].dtype == "Int64"


# ranges to ship


def responses(rows: list[tuple[str, float, float, float]]) -> pd.DataFrame:
    """(direction, dose, lower end of the rate, coherence)"""
    return pd.DataFrame(rows, columns=["direction", "dose", "low", "coherence"])


BASE = Rate(0.02, 0.0, 0.11, 48, 0)


def test_the_range_to_ship_is_where_the_behaviour_is_up_and_coherence_kept() -> None:
    table = responses(
        [
            ("a", 0.1, 0.05, 1.0), ("a", 0.2, 0.12, 1.0), ("a", 0.3, 0.5, 0.95), ("a", 0.4, 0.9, 0.9), ("a", 0.5, 1.0, 0.89),
            ("never up", 0.1, 0.11, 1.0), ("never up", 0.9, 0.0, 0.2),
            ("one dose", 0.6, 0.3, 0.99),
            ("split", 0.9, 0.5, 1.0), ("split", 0.1, 0.5, 1.0), ("split", 0.2, 0.5, 1.0), ("split", 0.3, 0.0, 1.0),
            ("split", 0.5, 0.5, 1.0),
            ("equal", 0.2, 0.5, 1.0), ("equal", 0.4, 0.5, 0.5), ("equal", 0.6, 0.5, 1.0),
            ("twice", 0.1, 0.5, 1.0), ("twice", 0.2, 0.5, 1.0), ("twice", 0.2, 0.0, 1.0),
        ]
    )  # fmt: skip
    expected = {
        "a": (0.2, 0.4), "never up": None, "one dose": (0.6, 0.6), "split": (0.5, 0.9), "equal": (0.2, 0.2), "twice": (0.1, 0.1)
    }  # fmt: skip
    assert ship_range(table, BASE) == expected
    assert ship_range(table.sample(frac=1, random_state=1), BASE) == expected
    table.index = pd.Index([0] * len(table))  # of parts put together
    assert ship_range(table, BASE) == expected
    assert ship_range(table, BASE, budget=0.05)["a"] == (0.2, 0.3)
    assert ship_range(table.iloc[:0], BASE) == {}
    assert ship_range(responses([("a", 0.1, math.nan, 1.0), ("a", 0.2, 0.5, math.nan)]), BASE) == {"a": None}


@SAMPLED
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=12, unique_by=lambda row: row[0]))
def test_no_other_range_is_wider_and_all_of_it_is_good(rows: list[tuple[int, bool, bool]]) -> None:
    table = responses([("a", float(dose), 0.5 if up else 0.0, 1.0 if kept else 0.5) for dose, up, kept in rows])
    good = {dose: up and kept for dose, up, kept in rows}
    ends = [(a, b) for a in good for b in good if a <= b and all(fine for dose, fine in good.items() if a <= dose <= b)]
    found = ship_range(table, BASE)["a"]
    assert (found is None) == (not ends)
    if found is not None:
        assert found in ends
        assert found[1] - found[0] == max(b - a for a, b in ends)
        assert found[0] == min(a for a, b in ends if b - a == found[1] - found[0])


# the best dose


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


@SAMPLED
@given(
    st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0, 1)), min_size=1, max_size=8, unique_by=lambda point: point[0]), st.floats(0, 0.9)
)
def test_a_grid_gives_the_last_dose_before_the_first_that_breaks_the_budget(points: list[tuple[float, float]], budget: float) -> None:
    assume(all(abs(incoherence - budget) > 1e-6 for _, incoherence in points))
    instrument = Instrument({"d": lambda dose: dict(points)[dose]})
    found = coherent_doses(instrument([("d", dose) for dose, _ in points]), budget)
    within = list(itertools.takewhile(lambda point: point[1] <= budget, sorted(points)))
    assert found.largest == {"d": within[-1][0] if within else None}


def test_ranges_may_differ_by_name() -> None:
    instrument = Instrument({"a": ramp(0.55, 2, 0.1), "b": ramp(0.9, 2, 0.1)})
    found = largest_coherent_doses(instrument, ["a", "b"], {"a": 0.4, "b": 0.8}, {"a": 0.8, "b": 1.0}, 0.1, 2)
    assert instrument.calls[1:] == [
        [("a", pytest.approx(0.6)), ("b", pytest.approx(0.9))],
        [("a", pytest.approx(0.5)), ("b", pytest.approx(0.95))],
    ]
    assert found.largest == {"a": pytest.approx(0.5), "b": pytest.approx(0.9)}
