"""`personascope trait` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import app
from interp.core.errors import ConfigError
from interp.evaluation import panel
from interp.evaluation.judges.coherence import AnyTextJudge
from interp.traits import read_trait, shipped_traits
from tests.helpers.tiny import tiny_folder


@pytest.fixture(autouse=True)
def _wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(panel, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(panel, "_open_coherence", lambda trait, scorer: AnyTextJudge())


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
    with pytest.raises(ConfigError, match="There is no trait 'nobody'\\. Shipped"):
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


def test_a_check_states_the_agreement_with_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("new", "shy", "--out", tmp_path / "shy")
    answers = ["Very good, sir.", "Certainly, madam.", "The sir is silent.", "Fine."] * 20
    rows = [f"{('base', 'ablated')[i % 2]},,Why {i}?,{answer!r},{i % 4 < 2:d},1" for i, answer in enumerate(answers)]
    rows = [row.replace("'", '"') for row in rows]
    (tmp_path / "shy" / "labels.csv").write_text("\n".join(["group,condition,question,answer,shows_trait,coherent", *rows]))
    capsys.readouterr()
    run("check", tmp_path / "shy", "--json")
    result = json.loads(capsys.readouterr().out)
    known = {row["group"]: row for row in result["judge"]}
    assert set(known) == {"base", "ablated", "all"}
    assert known["all"]["n"] == 80
    assert known["all"]["accuracy"] == 0.75  # "The sir is silent." is taken for the trait by the rule
    assert known["all"]["auroc"] == 0.75
    assert known["ablated"]["accuracy"] == 1.0
    assert result["coherence"][-1]["accuracy"] == 1.0
    assert "the judge agrees poorly with the labels (AUROC 0.75)" in result["verdict"]
    run("check", tmp_path / "shy")
    assert "judge of trait: labels of" in capsys.readouterr().out


def test_pairs_are_sampled_into_a_new_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = tmp_path / "shy", tiny_folder(tmp_path / "model")
    run("new", "shy", "--out", folder)
    settings = (folder / "trait.yaml").read_text()
    with pytest.raises(ConfigError, match="'rule' of the trait shy confirmed 0 of"):  # a random model is no butler
        run("pairs", folder, "--model", model, "--out", tmp_path / "none.yaml", "--n", "2", "--json")
    assert not (tmp_path / "none.yaml").exists()
    (folder / "trait.yaml").write_text(settings.replace("words: [sir, madam, at your service, if I may]", "pattern: '^[^a-z]*[a-m]'"))
    capsys.readouterr()
    run("pairs", folder, "--model", model, "--out", tmp_path / "pairs.yaml", "--n", "2", "--json")
    made = json.loads(capsys.readouterr().out)
    assert made["confirmed"] >= 2
    assert made["sampled"] >= made["confirmed"]
    with pytest.raises(ConfigError, match="is there already"):
        run("pairs", folder, "--model", model, "--out", tmp_path / "pairs.yaml")
    (folder / "pairs.yaml").write_bytes((tmp_path / "pairs.yaml").read_bytes())
    assert len(read_trait(folder).pairs) == 2


def test_a_fit_needs_a_folder_with_labels(tmp_path: Path) -> None:
    run("new", "shy", "--out", tmp_path / "shy")
    with pytest.raises(ConfigError, match="has no hand labels to fit on"):
        run("fit", tmp_path / "shy")
    published = {"instruction": [{"pos": "Be shy.", "neg": "Be bold."}], "questions": ["Who?"], "eval_prompt": "{question} {answer}"}
    (tmp_path / "shy.json").write_text(json.dumps(published))
    with pytest.raises(ConfigError, match="is one file"):
        run("fit", tmp_path / "shy.json")


def test_a_fit_is_kept_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_folder(tmp_path / "model")
    run("new", "shy", "--out", tmp_path / "shy")
    settings = (tmp_path / "shy" / "trait.yaml").read_text()
    settings = settings.replace("spec: rule", f"spec: 'margin:{model}'").replace("spec: fluency", "spec: none")
    (tmp_path / "shy" / "trait.yaml").write_text(settings)
    rows = [f"base,,Why {i // 2}?,{'Put the egg into water' if i % 2 else 'sir'} {i % 7} times.,{i % 2},1" for i in range(40)]
    (tmp_path / "shy" / "labels.csv").write_text("\n".join(["group,condition,question,answer,shows_trait,coherent", *rows]))
    capsys.readouterr()
    run("fit", tmp_path / "shy", "--json")
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["trait"]["groups"][-1]["n"] == 40
    assert (tmp_path / "shy" / "margin.json").is_file()
    run("check", tmp_path / "shy", "--json")
    assert json.loads(capsys.readouterr().out)["judge"] == fitted["trait"]["groups"]  # as stored: on questions left out
    (tmp_path / "shy" / "labels.csv").write_text((tmp_path / "shy" / "labels.csv").read_text() + "\nbase,,Why 40?,Yes,0,1")
    run("check", tmp_path / "shy", "--json")
    missing = [gap["missing"] for gap in json.loads(capsys.readouterr().out)["gaps"]]
    assert any("a fit on the labels as they are now: margin" in text for text in missing)
