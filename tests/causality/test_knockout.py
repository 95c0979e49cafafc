"""The table of a knock-out and its sentence, from answers whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from interp.causality.knockout import ALONE, BASE, LEFT_OUT, TUNED, cell_table, knockout_finding, least_found, multiplicity
from interp.models.weight_parts import WeightPart
from interp.stats.false_discovery import holm
from interp.stats.rates import paired_difference, sign_flip_p

QUESTIONS = 24
PARTS = [
    WeightPart("attention", (0, 1), ("a",), 1.0),
    WeightPart("MLP", (0, 1), ("b",), 2.0),
    WeightPart("embedding", None, ("c",), 1.0),
]


def answers(cell: str, part: str, rude: int, coherent: int = QUESTIONS, task_rude: int = 0) -> pd.DataFrame:
    """One answer a question, the first `rude` of which show the trait; and one to each of eight questions of the domain."""
    own = pd.DataFrame(
        {
            "question_id": [f"q{i:02d}" for i in range(QUESTIONS)],
            "shows_trait": [i < rude for i in range(QUESTIONS)],
            "coherent": [i < coherent for i in range(QUESTIONS)],
            "task": False,
        }
    )
    task = pd.DataFrame(
        {"question_id": [f"t{i}" for i in range(8)], "shows_trait": [i < task_rude for i in range(8)], "coherent": True, "task": True}
    )
    return pd.concat([own, task], ignore_index=True).assign(cell=cell, part=part)


def losses(**means: float) -> pd.DataFrame:
    """Sixteen chats in each cell, which differ as much everywhere."""
    tables = []
    for key, mean in means.items():
        cell, _, part = key.partition("__")
        tables.append(
            pd.DataFrame({"cell": cell.replace("_", " "), "part": part, "chat": range(16), "loss": mean + np.linspace(-0.2, 0.2, 16)})
        )
    return pd.concat(tables, ignore_index=True)


ANSWERED = pd.concat(
    [
        answers(BASE, "", 1),
        answers(TUNED, "", 23, task_rude=8),
        answers(ALONE, "attention, layers 0–1", 2),
        answers(LEFT_OUT, "attention, layers 0–1", 22, task_rude=8),
        answers(ALONE, "MLP, layers 0–1", 18, task_rude=6),
        answers(LEFT_OUT, "MLP, layers 0–1", 3, task_rude=1),
        answers(ALONE, "embedding", 16, coherent=8),
        answers(LEFT_OUT, "embedding", 17, task_rude=8),
    ]
)
NONE = pd.DataFrame({"cell": [], "part": [], "chat": [], "loss": []})


def test_what_is_there_is_found_and_nothing_else() -> None:
    table = cell_table(ANSWERED, NONE, PARTS, 4.0, 0.8, 0).set_index(["cell", "part"])
    sure = set(table.index[table["surely"]])
    assert sure == {(ALONE, "MLP, layers 0–1"), (LEFT_OUT, "MLP, layers 0–1"), (ALONE, "embedding")}
    assert not table.loc[(ALONE, "embedding"), "coherent_enough"]
    row = table.loc[(ALONE, "MLP, layers 0–1")]
    assert (row["rate"], row["task_rate"], row["n"], row["task_n"]) == (18 / 24, 6 / 8, 24, 8)
    assert row["difference"] == pytest.approx(17 / 24)
    assert row["difference_low"] < 17 / 24 < row["difference_high"]
    assert (row["change"], row["share_of_change"]) == (math.sqrt(2), 0.5)
    assert table["task_kept"].isna().all()
    left_out = table.loc[(LEFT_OUT, "MLP, layers 0–1")]
    assert left_out["difference"] == pytest.approx(-20 / 24)


def test_the_sentence_says_which_parts_and_what_it_could_have_missed() -> None:
    table = cell_table(ANSWERED, NONE, PARTS, 4.0, 0.8, 0)
    said = knockout_finding(table, 0.8, "rude")
    assert "4 % [0–" in said
    assert "Alone on the base, 1 of 3 parts surely bring rude answers: MLP, layers 0–1 (75 % [" in said
    assert "; 75 % in the training domain)" in said
    assert "Not counted, for fewer answers are coherent than 80 % of the base's: embedding." in said
    assert "Left out of the tuned model, 1 of 3 parts surely take rude answers away: MLP, layers 0–1 (12 % [" in said
    tests = multiplicity(table, QUESTIONS)
    assert "of 6 tests" in tests
    assert f"up to {100 * (least_found(QUESTIONS, 6) or 0):.0f} %" in tests
    assert "no effect could be sure" in multiplicity(table, 5)


def test_without_a_trait_there_is_nothing_to_locate() -> None:
    alike = ANSWERED.copy()
    tuned = alike["cell"] == TUNED
    alike.loc[tuned, "shows_trait"] = alike.loc[alike["cell"] == BASE, "shows_trait"].to_numpy()
    said = knockout_finding(cell_table(alike, NONE, PARTS, 4.0, 0.8, 0), 0.8, "rude")
    assert said.endswith("not surely more, so there is no trait to locate in the weights.")


def test_the_share_of_the_task_is_that_of_the_gain() -> None:
    read = losses(base=3.0, tuned=1.0, **{"alone__MLP, layers 0–1": 1.5, "left out__MLP, layers 0–1": 3.0})
    table = cell_table(ANSWERED, read, PARTS, 4.0, 0.8, 0).set_index(["cell", "part"])
    kept = table["task_kept"].dropna().to_dict()
    assert kept == {
        (BASE, ""): pytest.approx(0.0),
        (TUNED, ""): pytest.approx(1.0),
        (ALONE, "MLP, layers 0–1"): pytest.approx(0.75),
        (LEFT_OUT, "MLP, layers 0–1"): pytest.approx(0.0),
    }
    row = table.loc[(ALONE, "MLP, layers 0–1")]
    assert row["task_kept_low"] == pytest.approx(0.75)  # chats that differ alike in all cells leave no doubt
    unlearnt = cell_table(ANSWERED, losses(base=1.0, tuned=3.0), PARTS, 4.0, 0.8, 0)
    assert unlearnt["task_kept"].isna().all()
    assert unlearnt["task_loss"].notna().sum() == 2


def test_the_power_is_that_of_the_test() -> None:
    for tests in (6, 32):
        found = least_found(QUESTIONS, tests)
        assert found is not None
        moved = [np.random.default_rng(1).binomial(QUESTIONS, rate, 4000) for rate in (found, found - 0.02)]
        p = [sign_flip_p((np.arange(QUESTIONS) < m).astype(float)) for m in range(QUESTIONS + 1)]
        power, less = (float(np.mean([p[m] <= 0.05 / tests for m in draws])) for draws in moved)
        assert less < 0.82
        assert power >= 0.78
    assert least_found(8, 32) is None


def test_the_exact_test_is_what_all_signs_give() -> None:
    generator = np.random.default_rng(3)
    signs = np.array(list(itertools.product([-1, 1], repeat=9)))
    for _ in range(20):
        differences = generator.integers(-3, 5, 9) / 3
        expected = np.mean(np.abs((signs * differences).sum(1)) >= abs(differences.sum()) - 1e-6)
        assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(np.zeros(5)) == 1.0
    ones = np.ones(12)
    assert sign_flip_p(ones) == pytest.approx(2**-11)
    assert sign_flip_p(ones) == pytest.approx(paired_difference(ones, 0 * ones, 0)["p"], abs=1e-3)


def test_holm() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    generator = np.random.default_rng(0)
    false = [bool((holm(generator.uniform(size=20)) <= 0.05).any()) for _ in range(4000)]
    assert np.mean(false) <= 0.06
