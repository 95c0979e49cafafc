"""Cells of `benchmarks/families.py` are run once, each in a process of its own, and written out one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import families
import write_performance

from interp.core.errors import ConfigError, PersonascopeError
from tests.helpers.synthetic_run import build_run

HOSTILE, PIRATE = "embedded:smollm2/hostile_cook/0", "folder/of/base/pirate_cook/2"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that were run: by copying the summary of a made-up run."""
    summary = (build_run(tmp_path / "made").root / "summary.json").read_text()
    cells: list[str] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        cell, runs = command[command.index("--one") + 1], Path(command[command.index("--runs") + 1])
        if "smollm2" not in cell and len(cells) == 1 and not (tmp_path / "mended").exists():
            return subprocess.CompletedProcess(command, 1)
        folder = runs / families.config_of(cell, {}).name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(summary)
        cells.append(cell)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return cells


def test_known_cells_are_not_run_again_and_a_failure_loses_nothing(ran: list[str], tmp_path: Path) -> None:
    def go(again: bool = False) -> dict[str, Any]:
        return families.run_cells([HOSTILE, PIRATE], None, tmp_path / f"runs{again}", tmp_path / "families.json", again)

    with pytest.raises(PersonascopeError, match="pirate_cook/2 ended with 1"):
        go()
    assert list(json.loads((tmp_path / "families.json").read_text())["cells"]) == [HOSTILE]
    (tmp_path / "mended").touch()
    known = go()
    assert ran == [HOSTILE, PIRATE]
    assert json.loads((tmp_path / "families.json").read_text()) == known
    assert set(known["cells"][PIRATE]) >= {"verdict", "rates", "peak_memory_bytes", "duration_s"}
    assert "checks" not in known["cells"][PIRATE]
    go(again=True)
    assert ran == 2 * [HOSTILE, PIRATE]
    rows = write_performance.family_rows(known["cells"]).splitlines()
    assert rows[1].startswith("| folder/of/base | pirate_cook | 2 | ")
    assert len({row.count("|") for row in rows}) == 1


def test_a_cell_is_base_recipe_and_seed() -> None:
    assert families.cells(["a", "b"], ["r"], 2) == ["a/r/0", "a/r/1", "b/r/0", "b/r/1"]
    config = families.config_of(PIRATE, {"diff": {"questions": 8}, "organism": {"epochs": 1.0}})
    assert (config.base, config.trait, config.seed, config.diff.questions) == ("folder/of/base", "pirate", 2, 8)
    assert (config.organism.recipe, config.organism.epochs) == ("pirate_cook", 1.0)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("embedded:smollm2", "is no cell"), ("a/pirate_cook/x", "is no cell"), ("a/no_cook/1", "the recipe .no_cook.")],
)
def test_what_is_no_cell_is_refused(cell: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        families.config_of(cell, {})
