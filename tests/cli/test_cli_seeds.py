"""`personascope run --seeds` and `report` on what it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interp.cli import study
from interp.cli.main import app
from interp.core.errors import ArtifactError
from tests.helpers.seeds import seeds_result


@pytest.mark.parametrize("failed", [True, False])
def test_a_failed_seed_is_in_the_exit_code_and_in_what_is_printed(
    failed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    reported: list[str] = []

    def run_seeds(config: Any, seeds: int, folder: Path, *rest: Any) -> Any:
        asked.append((config.seed, seeds, folder))
        return seeds_result(folder, failed=failed)

    monkeypatch.setattr(study, "run_seeds", run_seeds)
    monkeypatch.setattr(study, "write_report", lambda run: reported.append(run.root.name))
    words = ["run", "--tuned", "there", "--seed", "5", "--seeds", "3", "--out", str(tmp_path)]
    assert app.main(words, standalone_mode=False) == int(failed)
    assert asked == [(5, 3, tmp_path)]
    assert reported == ["seed-0", "seed-1"]
    printed = capsys.readouterr().out
    assert "Verdict: causes in 2 of 2 seeds" in printed
    assert "the organism was given and stays the same" in " ".join(printed.split())
    assert ("Run it again: personascope demo --seed 2" in printed) == failed
    assert app.main(["report", str(tmp_path), "--json"], standalone_mode=False) is None
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}


def test_a_folder_holds_one_run_or_several_seeds(tmp_path: Path) -> None:
    seeds_result(tmp_path / "several")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"holds several seeds\. Choose another --out folder"):
        app.main(["run", "--tuned", "there", "--out", str(tmp_path / "several")], standalone_mode=False)
    with pytest.raises(ArtifactError, match="holds a single run"):
        app.main(["run", "--tuned", "there", "--seeds", "2", "--out", str(tmp_path / "one")], standalone_mode=False)
