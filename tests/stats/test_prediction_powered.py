"""Prediction-powered rates: against ppi-python where answers are independent, and by simulation where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

from interp.core.errors import ConfigError
from interp.stats.prediction_powered import power, prediction_powered_rate, standard_error
from interp.stats.rates import clustered_rate


def world(seed: int, n: int = 2000, labels: int = 300, rate: float = 0.3, right: float = 0.85) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < rate
    said = np.where(rng.random(n) < right, truth, rng.random(n) < 0.6)
    labelled = np.zeros(n, dtype=bool)
    labelled[rng.choice(n, labels, replace=False)] = True
    return truth.astype(float), said.astype(float), labelled


def as_lists(truth: np.ndarray, said: np.ndarray, labelled: np.ndarray) -> tuple[list[bool], list[bool | None]]:
    return [bool(v) for v in said], [bool(t) if known else None for t, known in zip(truth, labelled, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_independent_answers_give_what_the_published_estimator_gives(seed: int) -> None:
    truth, said, labelled = world(seed)
    judged, gold = as_lists(truth, said, labelled)
    found = prediction_powered_rate(judged, gold, list(range(len(judged))))
    parts = truth[labelled], said[labelled], said[~labelled]
    tuned = power(truth, said, labelled)
    assert found.rate == pytest.approx(float(ppi_mean_pointestimate(*parts, lam=tuned)[0]), abs=1e-12)
    assert tuned == pytest.approx(_their_power(*parts), abs=0.02)
    low, high = (float(end[0]) for end in ppi_mean_ci(*parts, alpha=0.05, lam=tuned))
    error = standard_error(truth, said, labelled, np.arange(len(said)), tuned)
    assert 2 * 1.96 * error == pytest.approx(high - low, rel=0.01)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert found.n == 300


def _their_power(truth: np.ndarray, said: np.ndarray, rest: np.ndarray) -> float:
    """The weight behind their default estimate, which is linear in it."""
    ends = [float(ppi_mean_pointestimate(truth, said, rest, lam=weight)[0]) for weight in (0.0, 1.0)]
    return (float(ppi_mean_pointestimate(truth, said, rest)[0]) - ends[0]) / (ends[1] - ends[0])


def test_a_good_judge_shortens_the_interval_and_a_blind_one_does_no_harm() -> None:
    truth, _, labelled = world(1)
    rng = np.random.default_rng(2)
    clusters = list(range(len(truth)))
    alone = clustered_rate([bool(t) for t in truth[labelled]], list(np.flatnonzero(labelled)))
    widths = {}
    for name, said in {"perfect": truth, "blind": (rng.random(len(truth)) < 0.5).astype(float), "constant": np.ones(len(truth))}.items():
        found = prediction_powered_rate(*as_lists(truth, said, labelled), clusters)
        widths[name] = found.high - found.low
    assert widths["perfect"] < 0.5 * (alone.high - alone.low)
    assert widths["blind"] == pytest.approx(alone.high - alone.low, rel=0.05)
    assert widths["constant"] == pytest.approx(alone.high - alone.low, rel=0.05)


def test_a_biased_judge_is_corrected_and_clusters_are_counted() -> None:
    """200 evaluations of 24 questions: the judge alone is 12 points off; the 95 % intervals cover."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(24), 15)
    covered = off = 0
    for _ in range(200):
        truth = rng.random(360) < rng.beta(0.8, 3.2, 24)[clusters]
        said = np.where(truth, rng.random(360) < 0.8, rng.random(360) < 0.2)
        gold: list[bool | None] = [None] * 360
        for place in rng.choice(360, 150, replace=False):
            gold[place] = bool(truth[place])
        found = prediction_powered_rate(said.tolist(), gold, clusters.tolist())
        covered += found.low <= 0.2 <= found.high
        judge = clustered_rate(said.tolist(), clusters.tolist())
        off += not judge.low <= 0.2 <= judge.high
    assert covered / 200 >= 0.9
    assert off / 200 >= 0.5


def test_answers_that_the_judge_left_open_are_kept() -> None:
    truth, said, labelled = world(5)
    judged, gold = as_lists(truth, said, labelled)
    found = prediction_powered_rate([None if i % 10 == 0 else v for i, v in enumerate(judged)], gold, list(range(len(judged))))
    assert found.unscored == 200
    assert found.low < 0.3 < found.high


def test_too_few_labels_are_a_sentence() -> None:
    with pytest.raises(ConfigError, match="29 answers have gold labels, at least 30 are needed"):
        prediction_powered_rate([True] * 40, [True] * 29 + [None] * 11, list(range(40)))
