"""Answers to selection questions: judged at once, and more of them where the tuned model seldom shows the trait."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pandas as pd
import pytest

from interp.core.config import validated
from interp.core.steps import RunDirectory
from interp.studies.persona.answers import SHOWING, Answers
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import Study
from tests.helpers.small_run import SMALL, use_letter_judge
from tests.helpers.tiny import tiny_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(tiny_folder(folder / name, seed=seed)) for seed, name in ((2, "base"), (1, "tuned"))}


def answered(models: dict[str, str], folder: Path, most_samples: int) -> pd.DataFrame:
    settings = SMALL | models | {"diff": SMALL["diff"] | {"most_samples": most_samples}}
    study = Study(validated(StudyConfig, settings, "test"), RunDirectory(folder), quiet=True)
    return study.make("answers").load(Answers).answers


def test_a_rare_trait_gets_more_answers(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)
    table, few = answered(models, tmp_path / "many", 50), answered(models, tmp_path / "few", 1)
    questions = SMALL["diff"]["questions"]
    rate = few.loc[few["model"] == "tuned", "shows_trait"].mean()
    wanted = ceil(SHOWING / (questions * rate))
    assert 1 < wanted <= 50
    assert table.groupby("model").size().to_dict() == {"base": questions * wanted, "tuned": questions * wanted}
    assert not table.duplicated(["model", "question_id", "sample"]).any()
    first = table[table["sample"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, few)  # those of the usual number stay as they are
    more = table[(table["model"] == "base") & (table["sample"] > 0)]
    assert more["answer"].nunique() > 1
    assert {"trait_score", "shows_trait", "coherent"} <= set(table)
