"""Sets of latents, windows of layers, controls and ways round an ablation are chosen as stated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.evidence import activation_matched, parts_of, relative_activity
from interp.causality.latent_sets import LatentSet, RemovalScore, doubling_sets, half_point, preferred, rankings
from interp.causality.removals import Removal
from interp.causality.side_effects import rerouting
from interp.causality.windows import Window, WindowScore, smallest_window
from interp.core.errors import EditError

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)


# sets


def table_of(mean_diff: list[float], q_value: list[float], cosine: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"latent": range(10, 10 + len(q_value)), "mean_diff": mean_diff, "q_value": q_value, "cosine_persona": cosine})


def test_rankings_hold_latents_that_rose_surely() -> None:
    table = table_of([5.0, 4.0, 3.0, -9.0, 8.0], [0.001, 0.001, 0.01, 0.001, 0.02], [-0.5, 0.1, 0.9, 0.95, 0.99])  # 13 fell, 14 is not sure
    assert rankings(table, 0.01) == {"mean_diff": [10, 11, 12], "along_persona": [12, 11]}
    assert rankings(table, 1e-6) == {}
    assert rankings(table.assign(cosine_persona=-1.0), 0.01) == {"mean_diff": [10, 11, 12]}


@SAMPLED
@given(st.integers(0, 600), st.integers(1, 400))
def test_sets_double_and_end_with_the_largest(n: int, largest: int) -> None:
    sets = doubling_sets("mean_diff", list(range(n)), largest)
    sizes = [len(one) for one in sets]
    most = min(n, largest)
    assert all(one.latents == tuple(range(len(one))) for one in sets)
    assert sizes == sorted({size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, most) if 0 < size <= most})


def score(size: int, rate: float, coherence: float, trait_score: float | None = None) -> RemovalScore:
    latents = LatentSet("mean_diff", tuple(range(size))) if size else None
    return RemovalScore(latents, Removal("subtract", 2.0), 100 * rate if trait_score is None else trait_score, rate, coherence)


def test_coherence_decides_before_behaviour_and_few_latents_before_many() -> None:
    broken, many, few, weak = score(4, 0.0, 0.5), score(64, 0.0, 1.0), score(16, 0.05, 0.9), score(1, 0.4, 1.0)
    assert preferred([broken, many, few, weak], 0.1, 0.8) == [few, many, weak]
    assert preferred([broken, many, few, weak], 0.04, 0.8) == [many, few, weak]
    assert preferred([weak, score(2, 0.4, 1.0, 30.0)], 0.05, 0.8)[0].size == 2  # the finer score decides where none is good enough
    assert preferred([broken], 0.5, 0.8) == []


def test_of_what_is_good_enough_the_cheapest_on_ordinary_text_is_preferred() -> None:
    dear, cheap, weak = (replace(score(size, rate, 1.0), kl=kl) for size, rate, kl in ((4, 0.0, 1.0), (64, 0.05, 0.2), (1, 0.4, 0.0)))
    assert preferred([dear, cheap, weak], 0.1, 0.8) == [cheap, dear, weak]


def test_what_surely_keeps_coherence_comes_first_and_what_was_not_scored_never() -> None:
    sure, thin = (replace(score(8, 0.05, coherence), kl=kl) for coherence, kl in ((0.9, 1.0), (0.8, 0.2)))
    assert preferred([score(1, float("nan"), 1.0), thin, sure], 0.1, 0.8) == [sure, thin]


def test_a_cure_that_may_keep_coherence_comes_before_what_cures_nothing() -> None:
    maybe, likelier, coherent, broken = score(64, 0.05, 0.72), score(128, 0.1, 0.78), score(16, 0.4, 1.0), score(8, 0.0, 0.69)
    assert preferred([coherent, maybe, broken, likelier], 0.1, 0.8) == [likelier, maybe, coherent]
    assert preferred([score(16, 0.4, 0.75)], 0.1, 0.8) == []


@SAMPLED
@given(st.integers(0, 8), st.floats(0.05, 1.0))
def test_the_half_point_of_a_step_lies_at_the_step(power: int, rate: float) -> None:
    sizes = [2**i for i in range(9)]
    point = half_point(sizes, [rate if i < power else 0.0 for i in range(9)], rate)
    assert point is not None
    assert sizes[max(power - 1, 0)] <= point <= sizes[power]


def test_the_half_point_lies_between_sizes_and_needs_an_effect() -> None:
    assert half_point([1, 4, 16], [1.0, 0.75, 0.25], 1.0) == pytest.approx(4 * 2 ** (2 * 0.125 / 0.5))
    assert half_point([1, 4], [0.2, 0.0], 1.0) == 1.0
    assert half_point([1, 4], [1.0, 1.1], 1.0) is None
    assert half_point([], [], 1.0) is None


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
    left = level.drop(index=list({*persona, 5, 6}))
    for draw in chosen:
        for ours, theirs in zip(persona, draw, strict=True):
            assert ((left - level[ours]).abs() < abs(level[theirs] - level[ours])).sum() < pool
            left = left.drop(index=theirs)


def test_sets_too_large_for_separate_draws_share_latents() -> None:
    persona = list(range(60))
    draws = activation_matched(activity(), persona, 16, 0)
    assert [len(set(draw)) for draw in draws] == [60] * 16
    assert not {latent for draw in draws for latent in draw} & set(persona)
    assert len({tuple(draw) for draw in draws}) == 16


def test_how_active_controls_are_is_told() -> None:
    table = pd.DataFrame({"latent": [0, 1, 2, 3, 4], "mean_base": [0.0, 2.0, 1.0, 1.0, 0.0], "mean_tuned": [8.0, 0.0, 1.0, 3.0, 2.0]})
    assert relative_activity(table, [0], [[1], [2], [3]]) == 2.0 / 8.0
    assert relative_activity(table, [1, 2], [[3, 4], [4, 3]]) == 5.0 / 3.0
    assert math.isnan(relative_activity(table.assign(mean_base=0.0, mean_tuned=0.0), [0], [[1]]))


def test_draws_of_activation_matched_latents_follow_the_seed() -> None:
    assert len({str(activation_matched(activity(), [3, 40], 4, seed)) for seed in range(10)}) == 10


def test_a_dictionary_without_enough_latents_has_no_controls() -> None:
    with pytest.raises(EditError, match="has 2 other latents, and sets of 3"):
        activation_matched(activity(5), [0, 1, 2], 1, 0)
