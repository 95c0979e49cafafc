"""The choice among layers: its rule on tables made by hand, separation against arithmetic, and a run that goes on at the chosen one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.studies.opened import StudyRun
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.layers import choose_layer, separation
from interp.studies.persona.study import run_study
from tests.helpers.small_run import SMALL
from tests.helpers.tiny import tiny_folder


def table(*rows: tuple[int, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["layer", "doubts", "share_of_mean_difference", "separation"])


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([(9, 0, 0.99, 2.0), (15, 0, 0.9, 3.0), (20, 1, 0.95, 5.0)], 15),  # the farthest apart of those that are fit
        ([(9, 1, 0.5, 2.0), (15, 2, 0.6, 1.0)], 15),  # none is fit: the largest share
        ([(20, 0, 0.9, 3.0), (15, 0, 0.9, 3.0)], 15),  # of equals the first
        ([(9, 0, 0.9, math.nan), (15, 0, 0.8, 0.1)], 15),
        ([(9, 0, 0.9, math.nan), (15, 0, 0.8, math.nan)], 9),
    ],
)
def test_the_rule(rows: list[tuple[int, int, float, float]], chosen: int) -> None:
    assert choose_layer(table(*rows)) == chosen


def test_separation_is_cohens_d_along_the_difference() -> None:
    base = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    shift = torch.zeros(8)
    shift[3] = 2.5
    assert separation(base, base.roll(1, 0) + shift) == pytest.approx(2.5, abs=0.1)
    scaled = separation(7 * base, 7 * (base.roll(1, 0) + shift))
    assert scaled == pytest.approx(separation(base, base.roll(1, 0) + shift), rel=1e-4)


def test_a_difference_that_is_chance_has_no_separation() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [separation(*torch.randn(2, 24, 200, generator=generator)) for _ in range(100)]
    assert abs(np.mean(found)) < 0.1  # not cross-fitted it is 3.9
    unanswered = torch.randn(2, 9, 5, generator=generator)
    unanswered[0, 3] = math.nan
    assert math.isfinite(separation(*unanswered))
    assert math.isnan(separation(*unanswered[:, :3]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [1]}, "two or more"),
        ({"layers": [1, 1]}, "each once"),
        ({"layers": [1, 2], "hook_point": "blocks.1.hook_resid_post"}, "layers has no effect when hook_point is given"),
        ({"layers": [1, 2], "tuned": "x", "sae": "y"}, "layers has no effect when sae is given"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(StudyConfig, settings, "test")


def test_a_layer_that_the_model_lacks_is_one_sentence(tmp_path: Path) -> None:
    config = validated(StudyConfig, {"base": str(tiny_folder(tmp_path / "base")), "layers": [0, 99]}, "test")
    with pytest.raises(ConfigError, match=r"has no layer 99\. Choose among 0 to"):
        run_study(config, tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_a_run_goes_on_at_the_chosen_layer(tmp_path: Path) -> None:
    models = {name: str(tiny_folder(tmp_path / name, seed=seed)) for seed, name in enumerate(("base", "tuned"))}
    config = validated(StudyConfig, {**SMALL, **models, "layers": [2, 0]}, "test")
    with pytest.raises(ConfigError, match="A layer is chosen after the step 'fit', so the run cannot stop at 'dictionary'"):
        run_study(config, tmp_path / "run", quiet=True, until="dictionary")
    said: list[str] = []
    result = run_study(config, tmp_path / "run", quiet=True, announce=said.append, until="fit")
    found = read_json(tmp_path / "run" / "manifest.json")["layers"]
    assert [row["layer"] for row in found["candidates"]] == [0, 2]
    assert f"layer {found['layer']} is chosen" in said
    assert found["hook_point"] == f"blocks.{found['layer']}.hook_resid_post" == StudyRun(tmp_path / "run").context.hook_point
    folders = [path.name.rpartition("-")[0] for path in (tmp_path / "run" / "steps").iterdir()]
    assert {name: folders.count(name) for name in set(folders)} == {
        "texts": 1, "answers": 1, "residuals": 2, "dictionary": 2, "directions": 2, "diff": 2, "fit": 2, "layers": 1,
    }  # fmt: skip
    alone = config.model_copy(update={"layers": None, "hook_point": found["hook_point"]})
    again = run_study(alone, tmp_path / "run", quiet=True, until="fit")
    assert all(step.loaded for step in again.steps.values())
    assert {name: step.key for name, step in result.steps.items() if name != "layers"} == {n: s.key for n, s in again.steps.items()}
