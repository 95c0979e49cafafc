"""An artifact's fields are files: it loads what it saved, and a file that is missing or damaged is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from interp.core.artifacts import Artifact, in_place
from interp.core.errors import ArtifactError
from interp.core.steps import RunDirectory


@dataclass(frozen=True)
class Everything(Artifact):
    table: pd.DataFrame
    vectors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    weights: Path = in_place("model")


def test_an_artifact_loads_what_it_saved(tmp_path: Path) -> None:
    made = Everything(pd.DataFrame({"a": [1, 2]}), {"v": torch.arange(3.0)}, {"n": [1, None]})
    run = RunDirectory(tmp_path / "run")

    def make(folder: Path) -> None:
        (folder / "model").mkdir()
        made.save(folder)

    result = run.step("answers", {}, {}, make)
    loaded = result.load(Everything)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "facts.json",
        "model",
        "step.json",
        "table.parquet",
        "vectors.safetensors",
    ]
    pd.testing.assert_frame_equal(loaded.table, made.table)
    assert torch.equal(loaded.vectors["v"], made.vectors["v"])
    assert (loaded.facts, loaded.weights) == (made.facts, result.folder / "model")


@pytest.mark.parametrize("name", ["table.parquet", "vectors.safetensors", "facts.json", "model"])
def test_a_missing_or_damaged_file_of_an_artifact_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").touch()
    Everything(pd.DataFrame({"a": [1]}), {"v": torch.ones(1)}, {}).save(tmp_path)
    path = tmp_path / name
    if name != "model":
        path.write_bytes(b"\x00")
        with pytest.raises(ArtifactError, match=name):
            Everything.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        Everything.load(tmp_path)
