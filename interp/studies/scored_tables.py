"""Read judged answers back: evaluations of ours, and tables of scored answers as they are published."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.core.steps import EVALUATION_FILE
from interp.evaluation.hand_labels import read_table
from interp.evaluation.judges.base import score_of_alignment
from interp.evaluation.rates import Thresholds
from interp.studies.evaluation import JUDGED_FILE, Judged

TEXTS = ("model", "question_id", "cluster", "group", "format", "question", "answer", "reason", "id")
NO_SCORE = ("", "REFUSAL", "CODE", "NAN", "NONE")


@dataclass(frozen=True)
class Source:
    """Judged answers and what is known of how they were made."""

    path: Path
    answers: pd.DataFrame
    judged: Judged | None = None
    """None for a table, which does not say."""
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
    path = folder / JUDGED_FILE
    table = read_table(path)
    missing = [name for name in (*TEXTS, "trait_score", "coherence", "shows_trait", "coherent") if name not in table]
    if missing or table.empty:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "holds no answer"
        raise ConfigError(f"{path} {lacks}: evaluate again with this version; answers are kept.")
    return _as_text(table)


def _evaluation(folder: Path) -> Source:
    if not (folder / EVALUATION_FILE).is_file() or not (folder / JUDGED_FILE).is_file():
        raise ConfigError(f"{folder} holds no evaluation: make one with 'personascope evaluate … --out {folder}'.")
    about = read_json(folder / EVALUATION_FILE)
    try:
        judge = {name: about["judge"][name] for name in ("spec", "identity")}
        judge["thresholds"] = {one.name: about["judge"][one.name] for one in fields(Thresholds)}
        judged = TypeAdapter(Judged).validate_python(judge | {"words": about["words"], "agreement": about["agreement"]})
        sampling, measures = about["config"].get("sampling"), about["measures"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / EVALUATION_FILE} is of another version: evaluate again into {folder}; answers are kept.") from error
    return Source(folder, judged_answers(folder), judged, sampling, measures)


def _published(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table of scored answers in our columns: `coherent` is the coherence, `aligned` the alignment, from 0 to 100.

    Raises `ConfigError` naming what is missing or is no number.
    """
    if "coherence" not in table:
        table = table.rename(columns={"coherent": "coherence"})
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
        words = table.loc[numbers.isna() & table[name].notna(), name].astype(str)
        if wrong := [word for word in words if word.strip().upper() not in NO_SCORE]:
            raise ConfigError(f"{path}: '{wrong[0]}' in the column {name} is no score. Write a number from 0 to 100, or leave it empty.")
        table = table.assign(**{name: numbers})
    if scored == "aligned":
        table = table.assign(trait_score=[score_of_alignment(float(value)) for value in table["aligned"]]).drop(columns="aligned")
    if "model" in table and table["model"].isna().any():
        raise ConfigError(f"{path} has answers without a model. Fill the column 'model', or leave it out.")
    defaults: dict[str, Any] = {"model": path.stem, "format": "plain", "reason": "", "seed": 0}
    defaults |= dict.fromkeys(("group", "question", "cluster"), table["question_id"])
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    return _as_text(table.drop(columns="id", errors="ignore"))  # an id here is the author's, of whatever


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].fillna("").astype(str) for name in TEXTS if name in table})
