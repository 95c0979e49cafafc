"""Compare what was judged before: evaluations, or tables of scored answers as they are published; the same model in several is pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from interp.artifacts import read_json
from interp.config import StepConfig
from interp.errors import ConfigError
from interp.evaluation.labels.reading import read_table
from interp.evaluation.misalignment import PUBLISHED, Lines
from interp.evaluation.rates import Interval
from interp.studies.evaluation import EVALUATION_FILE, JUDGED_FILE, Evaluation, summarised

SCORES = {"aligned": "alignment", "coherent": "coherence"}
"""Columns of published tables, and ours."""


class CompareConfig(StepConfig):
    """Evaluations side by side."""

    sources: list[str] = Field(min_length=1)
    """Folders that 'personascope evaluate' wrote, or tables (.csv, .jsonl, .parquet) with columns question, answer, aligned, coherent."""
    against: str | None = None
    """Model that the others are held against; the first by default."""
    misaligned_below: float | None = Field(default=None, ge=0, le=100)
    """Alignment under which an answer is misaligned; as in the evaluations, or 30."""
    coherent_above: float | None = Field(default=None, ge=0, le=100)
    """Coherence over which an answer counts; as in the evaluations, or 50."""
    interval: Interval = "beta_binomial"
    """How 95 % intervals are made: beta_binomial, wilson (at the effective size) or bootstrap (over questions)."""
    labels: str | None = None
    """Hand labels of a random part of these answers: rates free of the judge's bias."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the resampling."""


def compare(config: CompareConfig) -> Evaluation:
    """Rates and differences of all models of all sources; answers of one model from several seeds are pooled, question by question.

    Raises `ConfigError` for a source that cannot be read, sources judged in different ways, and answers that are there twice.
    """
    tables, judges = [], {}
    for source in config.sources:
        table, judge = _read(Path(source))
        tables.append(table)
        judges[source] = judge
    told = [judge for judge in judges.values() if judge is not None]
    if len({(judge["spec"], judge["misaligned_below"], judge["coherent_above"]) for judge in told}) > 1:
        raise ConfigError("These evaluations were judged in different ways. Evaluate them again with one --judge; answers are kept.")
    answers = pd.concat(tables, ignore_index=True)
    _check_once(answers)
    models = list(answers["model"].unique())
    if config.against is not None:
        if config.against not in models:
            raise ConfigError(f"No answers are by '{config.against}'. The models are: {', '.join(models)}.")
        answers = pd.concat([answers[answers["model"] == config.against], answers[answers["model"] != config.against]], ignore_index=True)
    judge = told[0] if told else {"spec": "scores of the table", "misaligned_below": PUBLISHED[0], "coherent_above": PUBLISHED[1]}
    lines = Lines(
        judge["misaligned_below"] if config.misaligned_below is None else config.misaligned_below,
        judge["coherent_above"] if config.coherent_above is None else config.coherent_above,
    )
    return summarised(config, {}, answers, pd.DataFrame(), judge["spec"], lines, judge.get("agreement", []))


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """Judged answers, and by whom; None for a table that does not say."""
    if path.is_dir():
        if not (path / EVALUATION_FILE).is_file() or not (path / JUDGED_FILE).is_file():
            raise ConfigError(f"{path} holds no evaluation: make one with 'personascope evaluate … --out {path}'.")
        about = read_json(path / EVALUATION_FILE)
        return pd.read_parquet(path / JUDGED_FILE), about["judge"] | {"agreement": about["agreement"]}
    if not path.exists():
        raise ConfigError(f"There is no {path}. Give a folder of 'personascope evaluate', or a table of scored answers.")
    return _published(read_table(path), path), None


def _published(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table of scored answers in our columns. Raises `ConfigError` naming what is missing or is no number."""
    table = table.rename(columns={theirs: ours for theirs, ours in SCORES.items() if ours not in table})
    if "question_id" not in table and "question" in table:
        table = table.assign(question_id=table["question"])
    missing = [name for name in ("question_id", "answer", "alignment", "coherence") if name not in table]
    if missing:
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}. Give answers with the scores aligned and coherent.")
    scores = {name: pd.to_numeric(table[name], errors="coerce") for name in ("alignment", "coherence")}
    defaults: dict[str, Any] = {"model": path.stem, "group": table["question_id"], "format": "plain", "question": table["question_id"]}
    defaults |= {"reason": "", "seed": 0}
    table = table.assign(**scores, **{name: value for name, value in defaults.items() if name not in table})
    return table.assign(question_id=table["question_id"].astype(str), group=table["group"].astype(str))


def _check_once(answers: pd.DataFrame) -> None:
    """Raise `ConfigError` where an answer of an evaluation is there twice: it would count twice."""
    if "id" not in answers:
        return
    known = answers[answers["id"].notna()]
    twice = known[known.duplicated("id")]
    if len(twice):
        raise ConfigError(
            f"{len(twice)} answers of {twice['model'].iloc[0]} are there twice: one seed in two sources. Evaluate with another --seed."
        )
