"""Sets of latents, windows of layers, controls and ways round an ablation are chosen as stated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.evidence import activation_matched, parts_of, relative_activity
from interp.causality.latent_sets import LatentSet, SetScore, greedy_set, minimal_set
from interp.causality.side_effects import rerouting
from interp.causality.windows import Window, WindowScore, smallest_window
from interp.core.errors import EditError

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)


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
    assert path[0] == min(coherent, key=lambda s: (s.trait_score, s.latents))
    for before, after in itertools.pairwise(path):
        assert before.rate > target  # it was not yet enough
        assert after.latents[:-1] == before.latents
        assert after.trait_score < before.trait_score
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


def needed_only(needed: frozenset[int]) -> Callable[[list[LatentSet]], list[SetScore]]:
    """The behaviour is gone when all of `needed` are removed, and else all there; more latents cost a little hostility."""

    def measure(sets: list[LatentSet]) -> list[SetScore]:
        gone = [needed <= set(latents) for latents in sets]
        return [SetScore(s, 0.01 * len(s) if g else 1.0, 0.0 if g else 1.0, 1.0) for s, g in zip(sets, gone, strict=True)]

    return measure


@SAMPLED
@given(st.sets(st.integers(0, 9), min_size=1, max_size=4), st.sets(st.integers(10, 19), max_size=4))
def test_the_minimal_set_is_what_is_needed(needed: set[int], idle: set[int]) -> None:
    measure = needed_only(frozenset(needed))
    (full,) = measure([tuple(sorted(needed | idle))])
    path = minimal_set(full, measure, 0.1, 0.8)
    assert set(path[-1].latents) == needed
    assert [len(score.latents) for score in path] == list(range(len(full.latents), len(needed) - 1, -1))


def test_a_set_keeps_what_its_coherence_hangs_on_and_is_never_empty() -> None:
    def measure(sets: list[LatentSet]) -> list[SetScore]:
        return [SetScore(latents, 0.0, 0.0, 1.0 if 1 in latents else 0.5) for latents in sets]

    assert [score.latents for score in minimal_set(measure([(1, 2)])[0], measure, 0.1, 0.8)] == [(1, 2), (1,)]


def test_a_set_that_misses_the_target_gets_no_worse() -> None:
    def measure(sets: list[LatentSet]) -> list[SetScore]:
        return [SetScore(latents, 1 - 0.3 * len(latents), 1 - 0.3 * len(latents), 1.0) for latents in sets]

    assert len(minimal_set(measure([(1, 2)])[0], measure, 0.1, 0.8)) == 1  # 0.4 is above the target, and 0.7 is worse


# windows


@SAMPLED
@given(st.integers(0, 29), st.integers(0, 29), st.integers(0, 29), st.integers(0, 29))
def test_the_smallest_window_still_does_the_job_and_none_of_its_cuts_does(a: int, b: int, c: int, d: int) -> None:
    first, inner_first, inner_last, last = sorted((a, b, c, d))
    needed = Window(inner_first, inner_last)
    asked: list[Window] = []

    def measure(windows: list[Window]) -> list[WindowScore]:
        asked.extend(windows)
        does = [w.first <= needed.first and w.last >= needed.last for w in windows]
        return [WindowScore(w, 0.0 if done else 1.0, 0.0 if done else 1.0, 1.0) for w, done in zip(windows, does, strict=True)]

    path = smallest_window(Window(first, last), measure, 0.1, 0.8)
    assert path[0].window == Window(first, last)
    assert path[-1].window == needed
    assert all(first <= w.first <= w.last <= last for w in asked)
    assert len(asked) <= 1 + 10 * len(path)
    assert len(set(asked)) == len(asked)


def test_a_window_that_does_not_do_the_job_has_no_path() -> None:
    def measure(windows: list[Window]) -> list[WindowScore]:
        return [WindowScore(window, 1.0, 1.0, 1.0) for window in windows]

    assert smallest_window(Window(3, 9), measure, 0.1, 0.8) == []
    assert smallest_window(Window(3, 9), measure, 1.0, 1.1) == []  # not coherent


# ways round


def latent_table(rise: dict[int, float], q: float = 0.001) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "latent": latent,
                "mean_diff": value,
                "mean_diff_low": value - 0.1,
                "mean_diff_high": value + 0.1,
                "q_value": q,
                "cosine_persona": latent / 10,
            }
            for latent, value in rise.items()
        ]
    )


def test_a_way_round_rose_surely_and_more_than_before_and_was_not_removed() -> None:
    before = latent_table({0: 2.0, 1: 0.1, 2: 0.5, 3: -1.0, 4: 0.0})
    after = latent_table({0: 3.0, 1: 0.8, 2: 0.6, 3: -0.5, 4: 0.9})
    found = rerouting(before, after, removed=[0], largest_q=0.01)
    assert list(found["latent"]) == [4, 1]  # 2 rose within its interval, 3 is below the base still
    assert found.iloc[1][
        ["mean_diff_before", "mean_diff_after", "low_after", "high_after", "q_after", "cosine_persona"]
    ].tolist() == pytest.approx([0.1, 0.8, 0.7, 0.9, 0.001, 0.1])
    assert rerouting(before, latent_table({1: 0.8, 4: 0.9}, q=0.02), [0], 0.01).empty


# controls


@SAMPLED
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 6), st.integers(1, 8))
def test_draws_share_the_questions_out_evenly(n: int, draws: int, full: int, parts: int) -> None:
    questions = [f"q{i}" for i in range(n)]
    asked = parts_of(questions, draws, full, parts)
    assert len(asked) == draws
    assert all(own == tuple(questions) for own in asked[:full])
    rest = asked[full:]
    assert all(own and len(own) <= -(-n // min(parts, n)) for own in rest)
    whole = rest[: len(rest) // min(parts, n) * min(parts, n)]
    counts = [sum(question in own for own in whole) for question in questions]
    assert len(set(counts)) == 1  # full rounds ask every question equally often


def activity(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"latent": rng.permutation(n), "mean_base": rng.gamma(0.5, 1, n), "mean_tuned": rng.gamma(0.5, 1, n)})


@SAMPLED
@given(st.lists(st.integers(0, 199), min_size=1, max_size=3, unique=True), st.integers(1, 16), st.integers(0, 2**20), st.integers(1, 30))
def test_activation_matched_latents_are_others_near_in_activity_and_none_comes_twice(
    persona: list[int], draws: int, seed: int, pool: int
) -> None:
    table = activity()
    chosen = activation_matched(table, persona, draws, seed, excluded=[5, 6], pool=pool)
    assert chosen == activation_matched(table.sample(frac=1, random_state=1), persona, draws, seed, excluded=[5, 6], pool=pool)
    flat = [latent for draw in chosen for latent in draw]
    assert [len(draw) for draw in chosen] == [len(persona)] * draws
    assert len(set(flat)) == len(flat)
    assert not set(flat) & {*persona, 5, 6}
    level = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    taken: set[int] = set()
    for place, ours in enumerate(persona):
        column = [draw[place] for draw in chosen]
        left = level.drop(index=list({*persona, 5, 6} | taken))
        assert all(((left - level[ours]).abs() < abs(level[theirs] - level[ours])).sum() < max(pool, draws) for theirs in column)
        taken |= set(column)


def test_how_active_controls_are_is_told() -> None:
    table = pd.DataFrame({"latent": [0, 1, 2, 3, 4], "mean_base": [0.0, 2.0, 1.0, 1.0, 0.0], "mean_tuned": [8.0, 0.0, 1.0, 3.0, 2.0]})
    assert relative_activity(table, [0], [[1], [2], [3]]) == 2.0 / 8.0
    assert relative_activity(table, [1, 2], [[3, 4], [4, 3]]) == 5.0 / 3.0
    assert math.isnan(relative_activity(table.assign(mean_base=0.0, mean_tuned=0.0), [0], [[1]]))


def test_draws_of_activation_matched_latents_follow_the_seed() -> None:
    assert len({str(activation_matched(activity(), [3, 40], 4, seed)) for seed in range(10)}) == 10


def test_a_dictionary_without_enough_latents_has_no_controls() -> None:
    with pytest.raises(EditError, match="has 2 other latents, and 1 draws of 3"):
        activation_matched(activity(5), [0, 1, 2], 1, 0)
