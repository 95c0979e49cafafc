"""Read judged answers back: evaluations of ours, and tables of scored answers as they are published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError, reason_of
from interp.core.files import read_json
from interp.core.steps import EVALUATION_FILE
from interp.evaluation.hand_labels import read_table
from interp.evaluation.judges.base import score_of_alignment
from interp.studies.evaluation import JUDGED_FILE

COHERENCE = {"coherent": "coherence"}
"""Column of published tables, and ours; the other is `aligned`, from which the trait score is made."""
TEXTS = ("model", "question_id", "cluster", "group", "format", "question", "answer", "reason", "id")


@dataclass(frozen=True)
class Source:
    """Judged answers and what is known of how they were made."""

    path: Path
    answers: pd.DataFrame
    judge: dict[str, Any] | None = None
    """As evaluation.json has it, and its `words`; None for a table, which does not say."""
    agreement: list[dict[str, Any]] = field(default_factory=list)
    sampling: dict[str, Any] | None = None
    measures: list[dict[str, Any]] = field(default_factory=list)


def read_source(path: Path) -> Source:
    """A folder of 'personascope evaluate' or a table. Raises `ConfigError`."""
    if path.is_dir():
        return _evaluation(path)
    if not path.exists():
        raise ConfigError(f"There is no {path}. Give a folder of 'personascope evaluate', or a table of scored answers.")
    return Source(path, _published(read_table(path), path))


def judged_answers(folder: Path) -> pd.DataFrame:
    """The answers of an evaluation. Raises `ConfigError` for a damaged file."""
    try:
        table = pd.read_parquet(folder / JUDGED_FILE)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ConfigError(
            f"{folder / JUDGED_FILE} cannot be read: {reason_of(error).partition(chr(10))[0]} Evaluate again; answers are kept."
        ) from error
    missing = [name for name in (*TEXTS, "trait_score", "coherence", "shows_trait", "coherent") if name not in table]
    if missing or table.empty:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "holds no answer"
        raise ConfigError(f"{folder / JUDGED_FILE} {lacks}: evaluate again with this version; answers are kept.")
    return _as_text(table)


def _evaluation(folder: Path) -> Source:
    if not (folder / EVALUATION_FILE).is_file() or not (folder / JUDGED_FILE).is_file():
        raise ConfigError(f"{folder} holds no evaluation: make one with 'personascope evaluate … --out {folder}'.")
    about = read_json(folder / EVALUATION_FILE)
    try:
        judge = about["judge"]
        for name in ("shows_above", "coherent_above"):
            judge[name] = None if judge[name] is None and name == "coherent_above" else float(judge[name])
        judge |= {
            "identity": list(judge["identity"]),
            "words": {name: str(about["words"][name]) for name in ("trait", "shown", "not_shown")},
        }
        return Source(folder, judged_answers(folder), judge, *_rest(about))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / EVALUATION_FILE} is of another version: evaluate again into {folder}; answers are kept.") from error


def _rest(about: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[dict[str, Any]]]:
    return about["agreement"], about["config"].get("sampling"), about["measures"]


def _published(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table of scored answers in our columns. Raises `ConfigError` naming what is missing or is no number."""
    table = table.rename(columns={theirs: ours for theirs, ours in COHERENCE.items() if ours not in table})
    scored = "trait_score" if "trait_score" in table else "aligned"
    if "question_id" not in table and "question" in table:
        table = table.assign(question_id=table["question"])
    missing = [name for name in ("question_id", "answer", scored, "coherence") if name not in table]
    if missing:
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}. Give answers with the scores aligned and coherent.")
    if table.empty:
        raise ConfigError(f"{path} holds no answer. Give a table with rows.")
    for name in (scored, "coherence"):
        numbers = pd.to_numeric(table[name], errors="coerce")
        words = table.loc[numbers.isna() & table[name].notna(), name]
        if wrong := [str(word) for word in words if str(word).strip().upper() not in ("", "REFUSAL", "CODE", "NAN", "NONE")]:
            raise ConfigError(f"{path}: '{wrong[0]}' in the column {name} is no score. Write a number from 0 to 100, or leave it empty.")
        table = table.assign(**{name: numbers})
    if scored == "aligned":
        table = table.assign(trait_score=[score_of_alignment(float(value)) for value in table["aligned"]]).drop(columns="aligned")
    if "model" in table and table["model"].isna().any():
        raise ConfigError(f"{path} has answers without a model. Fill the column 'model', or leave it out.")
    defaults: dict[str, Any] = {"model": path.stem, "group": table["question_id"], "format": "plain", "question": table["question_id"]}
    defaults |= {"reason": "", "seed": 0, "cluster": table["question_id"]}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    return _as_text(table.drop(columns="id", errors="ignore"))  # an id here is the author's, of whatever


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].fillna("").astype(str) for name in TEXTS if name in table})
