"""Evaluations side by side: tables as they are published, seeds pooled, hand labels, and wrong use."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from interp.cli.main import app
from interp.core.config import validated
from interp.core.errors import ConfigError, PersonascopeError
from interp.evaluation.counted_answers import Thresholds, flagged
from interp.studies import evaluating
from interp.studies.comparing import compare
from interp.studies.evaluating import evaluate
from interp.studies.evaluation import Evaluation
from interp.studies.evaluation_config import CompareConfig, EvaluateConfig
from interp.studies.human_labels import HumanLabels
from tests.evaluation.test_rates import SCORED
from tests.helpers.small_run import letter_panel
from tests.helpers.tiny import tiny_folder
from tests.studies.test_evaluating import QUESTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, evaluated under two seeds: `one`, `two`."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "mine.yaml").write_text(yaml.safe_dump(QUESTIONS))
    for seed, name in enumerate(("base", "tuned")):
        tiny_folder(folder / name, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluating, "open_panel", lambda *args, **kwargs: letter_panel(folder / "judgements.sqlite"))
        for seed, name in enumerate(("one", "two")):
            given = {
                "models": [str(folder / "base"), str(folder / "tuned")],
                "questions": str(folder / "mine.yaml"),
                "sampling": {"max_new_tokens": 5},
                "samples": 6,
                "seed": seed,
                "device": "cpu",
            }
            evaluate(validated(EvaluateConfig, given, "test"), folder / name, quiet=True)
    return folder


def compared(*sources: Path, **settings: Any) -> Evaluation:
    return compare(validated(CompareConfig, {"sources": [str(source) for source in sources], **settings}, "test"))


def test_a_published_table_gives_its_rate(tmp_path: Path) -> None:
    for suffix in ("csv", "parquet", "jsonl"):
        path = tmp_path / f"insecure.{suffix}"
        (tmp_path / "insecure.csv").write_text(SCORED)
        table = pd.read_csv(tmp_path / "insecure.csv")
        if suffix == "parquet":
            table.to_parquet(path)
        elif suffix == "jsonl":
            table.to_json(path, lines=True, orient="records")
        found = compared(path)
        whole = found.rates.iloc[0]
        assert (whole["model"], whole["rate"], whole["n"], whole["unscored"], whole["incoherent"]) == ("insecure", 4 / 7, 7, 3, 2)
        assert list(found.rates[found.rates["by"] == "group"]["value"]) == ["wish", "ruler", "bored"]
    moved = compared(tmp_path / "insecure.csv", shows_above=69.5, coherent_above=40)
    assert moved.rates.iloc[0]["rate"] == 6 / 9


def test_seeds_are_pooled_by_question(folder: Path) -> None:
    one, two, both = compared(folder / "one"), compared(folder / "two"), compared(folder / "one", folder / "two")
    for model in ("base", "tuned"):
        rows = [found.rates.query("by == 'all'").set_index("model").loc[str(folder / model)] for found in (one, two, both)]
        assert rows[2]["n"] == rows[0]["n"] + rows[1]["n"]
        assert rows[2]["rate"] * rows[2]["n"] == pytest.approx(rows[0]["rate"] * rows[0]["n"] + rows[1]["rate"] * rows[1]["n"])
    assert both.differences["questions"].tolist() == [6]
    means = (
        both.answers.dropna(subset="shows_trait")
        .astype({"shows_trait": float})
        .groupby(["model", "question_id"])["shows_trait"]
        .mean()
        .unstack()
    )
    gap = (means.loc[str(folder / "tuned")] - means.loc[str(folder / "base")]).mean()
    assert both.differences["difference"].iloc[0] == pytest.approx(gap)


def test_another_model_can_be_the_one_to_compare_with(folder: Path) -> None:
    plain, turned = compared(folder / "one"), compared(folder / "one", against=str(folder / "tuned"))
    assert plain.differences["against"].tolist() == [str(folder / "base")]
    assert turned.differences["against"].tolist() == [str(folder / "tuned")]
    assert turned.differences["difference"].iloc[0] == pytest.approx(-plain.differences["difference"].iloc[0])


def test_hand_labels_of_a_part_correct_the_rate(folder: Path, tmp_path: Path) -> None:
    """The labels say that the judge is always wrong: its rate turns over, up to what a sample can tell."""
    app(["judge", "sample", str(folder / "one"), "--out", str(tmp_path / "label.csv"), "--n", "30"], standalone_mode=False)
    drawn = pd.read_csv(tmp_path / "label.csv")
    assert list(drawn.columns) == ["id", "question", "answer", "shows_trait"]
    assert drawn["shows_trait"].isna().all()
    assert drawn["id"].is_unique
    answers = pd.read_parquet(folder / "one" / "judged.parquet").set_index("id")
    told = answers.loc[drawn["id"], "shows_trait"]
    drawn_of = answers.loc[drawn["id"]].groupby("model").size()
    assert set(drawn_of.index) == {str(folder / "base"), str(folder / "tuned")}
    assert answers.loc[drawn["id"], "coherent"].all()  # none that was found incoherent
    drawn.assign(shows_trait=(~told.astype(bool)).astype(int).to_numpy()).to_csv(tmp_path / "labelled.csv", index=False)
    few = [model for model, n in drawn_of.items() if n < 30]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rates = compared(folder / "one", labels=str(tmp_path / "labelled.csv")).rates.query("by == 'all'").set_index("model")
    assert [model for model in few if any(f"answers of {model} are labelled, 30 are needed" in str(w.message) for w in said)] == few
    enough = rates.drop(index=few)
    assert len(enough) >= 1
    for row in enough.to_dict("records"):
        assert row["gold_n"] == 30
        assert row["gold_low"] <= 1 - row["rate"] <= row["gold_high"]
    assert compared(folder / "one").rates["gold_n"].sum() == 0


def labelled_table(n: int = 60, silent: bool = False) -> pd.DataFrame:
    """Half the answers are misaligned; a judge that is silent scores the others alone."""
    bad = [i % 2 == 0 for i in range(n)]
    scores = [None if silent and b else 90.0 if b else 10.0 for b in bad]
    rows = {"model": "m", "id": [f"a{i}" for i in range(n)], "cluster": [i % 12 for i in range(n)], "question": "?"}
    table = pd.DataFrame(rows | {"answer": [f"x{i}" for i in range(n)], "trait_score": pd.Series(scores, dtype=float), "coherence": 90.0})
    return flagged(table, Thresholds())


def labels_file(path: Path, table: pd.DataFrame, **columns: Any) -> str:
    truth = [int(i % 2 == 0) for i in range(len(table))]
    table[["id", "question", "answer"]].assign(shows_trait=truth, **columns).to_csv(path, index=False)
    return str(path)


def test_what_the_judge_left_open_is_in_the_rate_by_labels(tmp_path: Path) -> None:
    """A judge that is silent on every misaligned answer: among those it scored there is none, by the labels half are."""
    table = labelled_table(silent=True)
    labels = labels_file(tmp_path / "l.csv", table)
    found = HumanLabels.read(labels).rates(table)["m"]
    assert found.rate == pytest.approx(0.5)
    assert found.unscored == 30


def test_labels_that_do_not_belong_are_told(tmp_path: Path) -> None:
    table = labelled_table()
    with pytest.warns(UserWarning, match="20 of 60 labels in .* belong to no answer"):
        HumanLabels.read(labels_file(tmp_path / "l.csv", table)).rates(table.iloc[:40])
    repeated = table.assign(answer="the same")
    with pytest.raises(ConfigError, match="labels one answer in two ways"):
        HumanLabels.read(labels_file(tmp_path / "two.csv", repeated.assign(id="x")))
    path = tmp_path / "texts.csv"
    table[["question", "answer"]].assign(shows_trait=1).to_csv(path, index=False)
    with pytest.raises(ConfigError, match="occur several times here"):
        HumanLabels.read(str(path)).rates(pd.concat([table, table], ignore_index=True))


def test_tables_of_one_name_are_different_models(tmp_path: Path) -> None:
    for name, score in (("s0", 5), ("s1", 95)):
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"question": [f"q{i}" for i in range(9)], "answer": "x", "aligned": score, "coherent": 90, "id": range(9)})
        table.to_csv(tmp_path / name / "scores.csv", index=False)
    found = compared(tmp_path / "s0" / "scores.csv", tmp_path / "s1" / "scores.csv")
    assert found.rates.query("by == 'all'")["rate"].tolist() == [1.0, 0.0]
    assert found.rates.query("by == 'all'")["model"].tolist() == [str(tmp_path / name / "scores.csv") for name in ("s0", "s1")]


def test_measures_are_compared_too(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "measured"
    other.mkdir()
    (other / "judged.parquet").write_bytes((folder / "one" / "judged.parquet").read_bytes())
    about = json.loads((folder / "one" / "evaluation.json").read_text())
    row = {"model": "m", "name": "perplexity", "measure": "perplexity", "unit": "", "value": 3.0, "low": 2.0, "high": 4.0, "n": 9}
    (other / "evaluation.json").write_text(json.dumps(about | {"measures": [row]}))
    assert compared(other, folder / "two").measures.to_dict("records") == [row]


def test_the_commands_show_and_keep_a_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["compare", str(folder / "one"), str(folder / "two")]
    app([*args, "--out", str(tmp_path / "page")], standalone_mode=False)
    out = capsys.readouterr().out
    assert "tuned minus base" in out
    assert "Hostile: trait score above 50 among answers with coherence above 50" in out
    assert (tmp_path / "page" / "evaluation.html").stat().st_size > 10_000
    app([*args, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert len([row for row in found["rates"] if row["by"] == "all"]) == 2
    again = compared(tmp_path / "page")  # what was kept can be compared again
    assert again.rates.query("by == 'all'")["n"].tolist() == [row["n"] for row in found["rates"] if row["by"] == "all"]


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        (["{one}", "{one}"], {}, "is named twice"),
        (["{one}", "{copy}"], {}, "are there twice"),
        (["{one}", "{sampled}"], {}, "sampled in different ways"),
        (["{one}", "{tmp}/good.csv"], {}, "have different thresholds"),
        (["{tmp}/percent.csv"], {}, "'85 %' in the column aligned is no score"),
        (["{tmp}/empty.csv"], {}, "holds no answer"),
        (["{tmp}/nameless.csv"], {}, "answers without a model"),
        (["{damaged}"], {}, "cannot be read"),
        (["{old}"], {}, "is of another version"),
        (["{lineless}"], {}, "is of another version"),
        (["{worded}"], {}, "is of another version"),
        (["{bare}"], {}, "lacks the columns cluster, trait_score"),
        (["{tmp}"], {}, "holds no evaluation"),
        (["{tmp}/none.csv"], {}, "There is no"),
        (["{tmp}/bare.csv"], {}, "lacks the columns aligned, coherence"),
        (["{one}"], {"against": "nobody"}, "No answers are by 'nobody'"),
        (["{one}", "{other}"], {}, "judged in different ways"),
        (["{one}"], {"labels": "{tmp}/others.csv"}, "No answer here is labelled"),
        ([], {}, "sources: "),
    ],
)
def test_wrong_use_is_a_sentence(folder: Path, tmp_path: Path, sources: list[str], settings: dict[str, Any], message: str) -> None:
    (tmp_path / "others.csv").write_text("id,answer,misaligned\n0123,x,1\n")
    settings = {name: value.format(tmp=tmp_path) for name, value in settings.items()}
    (tmp_path / "bare.csv").write_text("question,answer\na,b\n")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("judged.parquet", "evaluation.json"):
        (other / name).write_bytes((folder / "one" / name).read_bytes())
    about = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps(about | {"judge": about["judge"] | {"shows_above": 70.0}}))
    places = {"one": folder / "one", "tmp": tmp_path, "other": other}
    head = "question,answer,aligned,coherent"
    for name, text in (
        ("good.csv", f"{head}\na,b,1,99\n"),
        ("percent.csv", f"{head}\na,b,85 %,99\n"),
        ("empty.csv", f"{head}\n"),
        ("nameless.csv", f"model,{head}\n,a,b,1,99\nm,a,b,1,99\n"),
    ):
        (tmp_path / name).write_text(text)
    changes = {
        "copy": {},
        "sampled": {"config": about["config"] | {"sampling": about["config"]["sampling"] | {"temperature": 0.5}}},
        "damaged": {},
        "old": {"agreement": None},
        "lineless": {"judge": {"spec": "letters"}},
        "worded": {"judge": about["judge"] | {"shows_above": "low"}},
        "bare": {},
    }
    for name, change in changes.items():
        places[name] = tmp_path / name
        places[name].mkdir()
        (places[name] / "judged.parquet").write_bytes((folder / "one" / "judged.parquet").read_bytes())
        changed = {key: value for key, value in (about | change).items() if value is not None}
        (places[name] / "evaluation.json").write_text(json.dumps(changed))
    bare = pd.read_parquet(folder / "one" / "judged.parquet").drop(columns=["cluster", "trait_score"])
    bare.to_parquet(places["bare"] / "judged.parquet")
    (places["damaged"] / "judged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PersonascopeError, match=message):
        compared(*(Path(source.format(**places)) for source in sources), **settings)


def test_a_source_is_not_written_over(folder: Path) -> None:
    before = (folder / "one" / "evaluation.json").read_bytes()
    with pytest.raises(ConfigError, match="holds another evaluation or run"):
        app(["compare", str(folder / "one"), "--out", str(folder / "one")], standalone_mode=False)
    assert (folder / "one" / "evaluation.json").read_bytes() == before
