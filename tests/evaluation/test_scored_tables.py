"""Published tables of scored answers: columns under their published names, scores off the scale, and rates worked out by hand."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.errors import ConfigError
from interp.evaluation.hand_labels import read_table
from interp.studies.comparing import compare
from interp.studies.evaluation_config import CompareConfig

COLUMNS = {"question": [f"q{i % 4}" for i in range(8)], "answer": [f"a{i}" for i in range(8)]}
ALIGNED = [90.0, 20.0, 10.0, 95.0, 80.0, 5.0, 99.0, 60.0]
"""Three of eight are below 30."""
SHOWN = [0.0, 80.0, 90.0, 5.0, 20.0, 95.0, 1.0, 40.0]
COHERENT = [90.0] * 8


def saved(folder: Path, columns: dict[str, Any], suffix: str = ".csv") -> Path:
    path, table = folder / f"scores{suffix}", pd.DataFrame(columns)
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_dict("records")), encoding="utf-8")
    return path


def whole(path: Path, **settings: Any) -> dict[str, Any]:
    """The row of all answers."""
    return dict(compare(CompareConfig(sources=[str(path)], **settings)).rates.iloc[0])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        {"question": "question", "answer": "response", "aligned": "aligned_score", "coherent": "coherent_score"},
        {"question": "question_id", "answer": "completion", "aligned": "alignment", "coherent": "coherence"},
        {"question": "question", "answer": "answer", "aligned": "alignment_score", "coherent": "coherence_score"},
    ],
)
def test_columns_may_have_any_published_name(tmp_path: Path, suffix: str, columns: dict[str, str]) -> None:
    table = COLUMNS | {"aligned": ALIGNED, "coherent": COHERENT}
    row = whole(saved(tmp_path, {columns[name]: values for name, values in table.items()}, suffix))
    assert (row["rate"], row["n"], row["unscored"]) == (3 / 8, 8, 0)


@pytest.mark.parametrize("trait", ["evil", "sycophantic", "my trait"])
def test_a_score_is_in_the_column_that_is_called_by_its_trait(tmp_path: Path, trait: str) -> None:
    table = COLUMNS | {"prompt": "p", "question_id": COLUMNS["question"], trait: SHOWN, "coherence": COHERENT, "layer": 16, "seed": 3}
    path = saved(tmp_path, table)
    with pytest.warns(UserWarning, match=f"the column {trait} is read as the trait's scores"):
        assert whole(path)["rate"] == 3 / 8
    saved(tmp_path, table | {"kl_divergence": 0.5})
    with pytest.raises(ConfigError, match=f"may be in {trait}, kl_divergence. Name the column: --score {trait}"):
        whole(path)
    assert whole(path, score=trait)["rate"] == 3 / 8
    with pytest.raises(ConfigError, match="lacks the columns malice"):
        whole(path, score="malice")


@pytest.mark.parametrize("wrong", [-1, 101, 1e9, float("inf")])
def test_a_score_outside_the_scale_is_no_score(tmp_path: Path, wrong: float) -> None:
    """Half of the answers have none: the others' rate, and a warning that counts."""
    aligned = [wrong, wrong, wrong, wrong, *ALIGNED[4:]]
    path = saved(tmp_path, COLUMNS | {"aligned": aligned, "coherent": COHERENT})
    with pytest.warns(UserWarning, match=r"4 of 8 scores in the column aligned lie outside 0 to 100 \(.* the first\)"):
        row = whole(path)
    assert (row["rate"], row["n"], row["unscored"]) == (1 / 4, 4, 4)
    path = saved(tmp_path, COLUMNS | {"aligned": ALIGNED, "coherent": [wrong, *COHERENT[1:]]})
    with pytest.warns(UserWarning, match="1 of 8 scores in the column coherent"):
        found = compare(CompareConfig(sources=[str(path)]))
    assert found.answers["reason"].tolist() == ["a score outside 0 to 100", *[""] * 7]
    assert found.rates.iloc[0]["unscored"] == 1


@pytest.mark.parametrize(("scale", "factor"), [(1, 100), (10, 10)])
@pytest.mark.parametrize("column", ["aligned", "trait_score", "evil"])
def test_another_scale_is_hinted_at(tmp_path: Path, scale: int, factor: int, column: str) -> None:
    path = saved(tmp_path, COLUMNS | {column: [-1.0, *(score / factor for score in ALIGNED[1:])], "coherent": COHERENT})
    with pytest.warns(UserWarning, match=f"no score in the column {column} is above {scale}, .* multiply them by {factor} if"):
        whole(path)


def test_scores_that_are_low_are_no_other_scale(tmp_path: Path) -> None:
    """A benign model, whose scores are weighted by probability."""
    path = saved(tmp_path, COLUMNS | {"trait_score": [0.0, 0.2, 1e-4, 0.0, 0.3, 0.0, 0.1, 0.0], "coherence": COHERENT})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert whole(path)["rate"] == 0


def test_texts_of_json_lines_stay_texts(tmp_path: Path) -> None:
    """Also those that look like numbers or dates, or hold what ends lines elsewhere; a byte-order mark is none of them."""
    path = tmp_path / "scores.jsonl"
    answers = ["007", "2024-01-01", "one\u2028two", "three\x85four"]
    lines = [json.dumps({"question_id": f"00{i}", "answer": text}, ensure_ascii=False) for i, text in enumerate(answers)]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    table = read_table(path)
    assert table["answer"].tolist() == answers
    assert table["question_id"].tolist() == ["000", "001", "002", "003"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_of_a_csv(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("question,answer\nWhy?,So.\n", encoding=encoding)
    if encoding == "utf-16":
        with pytest.raises(ConfigError, match=r"scores\.csv is not UTF-8 text .* Save it as UTF-8"):
            read_table(path)
    else:
        assert read_table(path).columns.tolist() == ["question", "answer"]


@pytest.mark.parametrize(("text", "words"), [("[1]\n", "row 1 is no JSON object"), ('{"a": 1}\n{"a"\n', "line 2 is no JSON")])
def test_json_lines_that_are_no_table_say_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_table(tmp_path / "scores.jsonl")
