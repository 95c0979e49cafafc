"""Names of many models: as short as tells them apart, the same letters on a terminal, in figures and on a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from interp.cli.main import app
from interp.reports.evaluation_figure import rates_figure
from interp.reports.evaluation_page import render_evaluation
from interp.studies.comparing import compare
from interp.studies.evaluation import Evaluation, _short_names
from interp.studies.evaluation_config import CompareConfig

LONG = [f"Llama-3.1-8B-Instruct_{kind}-advice-of-{seed}" for kind in ("medical", "financial") for seed in range(12)]
OVERRIDE = "kind\u202elebal"
AWKWARD = ['<script>alert("no")</script>', "km/s", 'the "good" one', OVERRIDE, "isolated\u2066x"]


def tables(folder: Path, names: list[str]) -> Evaluation:
    """A table of each model, whose groups are its questions."""
    sources = []
    for place, name in enumerate(names):
        rows = {"model": name, "question": [f"q{i}" for i in range(8)], "answer": "x", "aligned": 20 * (place % 3 + 1), "coherent": 90}
        path = folder / f"{place}.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        sources.append(str(path))
    return compare(CompareConfig(sources=sources))


@pytest.mark.parametrize(
    ("models", "short"),
    [
        (["org/base", "org/tuned"], ["base", "tuned"]),
        (["runs/a/scores", "runs/b/scores"], ["a/scores", "b/scores"]),
        (["/data/x/m1/", "/data/y/m2"], ["x/m1", "y/m2"]),  # two letters say little
        (["km/s", "org/s"], ["km/s", "org/s"]),
        (["a<b>/script>", "org/tuned"], ["a<b>/script>", "tuned"]),
        (["llama@http://one/v1", "llama@http://two/v1"], ["llama@http://one/v1", "llama@http://two/v1"]),
        (["org/mistral-7b@http://one/v1", "gpt-4o"], ["mistral-7b", "gpt-4o"]),
        (["org/" + name for name in LONG[:2]], ["…0", "…1"]),
        (["a-very-long-name-without-another"], ["a-very-long-name-without-another"]),
        (["a-very-long-name-without-another", "b-very-long-name-without-another"],
         ["a-very-long-name-without-another", "b-very-long-name-without-another"]),
    ],
)  # fmt: skip
def test_names_are_as_short_as_tells_them_apart(models: list[str], short: list[str]) -> None:
    assert list(_short_names(models).values()) == short


def test_a_comparison_of_many_tables_shows_every_name_and_no_single_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = tables(tmp_path, [*LONG, "Llama-3.1-8B-Instruct_base"])
    app(["compare", *found.about["config"]["sources"]], standalone_mode=False)
    shown = capsys.readouterr().out
    names = found.rates.query("by == 'all'")["short"].tolist()
    assert len(set(names)) == 25
    assert names[0] == "…medical-advice-of-0"
    lines = [line.split()[0] for line in shown.split("\n\n")[0].splitlines() if line.strip()][1:]
    assert "".join(lines) == "".join(names)  # folded where the terminal is narrow, never cut
    assert "q3" not in shown  # a group of one question
    assert set(found.rates.query("by == 'group'")["questions"]) == {1}
    page = render_evaluation(found.as_json())
    assert "By group of questions" not in page
    wider = [row | {"questions": 2} for row in found.as_json()["rates"]]
    assert "By group of questions" in render_evaluation(found.as_json() | {"rates": wider})


def test_awkward_names_are_shown_whole_and_move_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tables(tmp_path, AWKWARD)
    assert found.rates.query("by == 'all'")["short"].tolist() == AWKWARD
    drawn = rates_figure(found.rates, "all").to_json()
    page = render_evaluation(found.as_json())
    app(["compare", *found.about["config"]["sources"]], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "kind·lebal" in shown
    assert "kind\ufffdlebal" in page
    for text in (drawn, page, shown):
        assert not {"\u202e", "\u2066"} & set(text)
        assert "u202e" not in text
    assert "&quot;" not in drawn
    assert 'the \\"good\\" one' in drawn
    assert "<script>alert" not in page
