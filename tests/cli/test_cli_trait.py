"""`personascope trait` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import app
from interp.core.errors import ConfigError
from interp.traits import read_trait, shipped_traits
from tests.helpers.tiny import tiny_folder


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def run(*args: str | Path) -> None:
    app(["trait", *(str(arg) for arg in args)], standalone_mode=False)


def test_shipped_traits_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("list", "--json")
    rows = json.loads(capsys.readouterr().out)["traits"]
    assert [row["name"] for row in rows] == shipped_traits()
    assert all(row["judge"] and row["description"] for row in rows)
    run("list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in shipped_traits())


def test_a_trait_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("new", "shy", "--out", tmp_path / "shy")
    capsys.readouterr()
    run("show", tmp_path / "shy")
    shown = capsys.readouterr().out
    assert "name: shy" in shown
    assert "2 pairs, 0 exemplars, 0 labels" in shown
    run("show", tmp_path / "shy", "--json")
    known = json.loads(capsys.readouterr().out)
    assert known["settings"]["judge"]["spec"] == "rule"
    assert known["pairs"] == 2
    with pytest.raises(ConfigError, match="There is no trait 'nobody'"):
        run("show", "nobody")


def test_a_new_trait_is_written_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("new", "shy", "--json")
    assert json.loads(capsys.readouterr().out) == {"trait": "shy", "folder": "shy"}
    assert read_trait(tmp_path / "shy").name == "shy"
    with pytest.raises(ConfigError, match="is there already"):
        run("new", "shy")


def test_a_check_says_what_is_missing_and_how_pairs_separate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("new", "shy", "--out", tmp_path / "shy")
    pairs = [f"  - {{question: 'What of {word}?', shows: 'Yes, sir.', not_shown: 'Yes.'}}" for word in ("eggs", "boats", "skies", "rivers")]
    (tmp_path / "shy" / "pairs.yaml").write_text("\n".join(["pairs:", *pairs]))
    model = tiny_folder(tmp_path / "model")
    capsys.readouterr()
    run("check", tmp_path / "shy", "--model", model, "--json")
    result = json.loads(capsys.readouterr().out)
    assert [gap["blocks"] for gap in result["gaps"]] == [False, False]
    assert result["separation"]["pairs"] == 4
    assert 0 <= result["separation"]["auroc"] <= 1
    assert result["verdict"].startswith("Usable, with doubts")
    run("check", tmp_path / "shy", "--model", model)
    shown = capsys.readouterr().out
    assert "missing: 20 more pairs (there are 4 of 24)" in shown
    assert "4 pairs in" in shown
    assert result["verdict"][:60] in shown
