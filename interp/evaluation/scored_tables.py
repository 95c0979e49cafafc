"""Tables of scored answers as they are published, in our columns: of the published evaluations, of persona vectors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.evaluation.judges.base import score_of_alignment

TEXTS = ("model", "question_id", "cluster", "group", "format", "question", "answer", "reason", "id")
NO_SCORE = ("", "REFUSAL", "CODE", "NAN", "NONE")
ALIGNMENT = ("aligned", "alignment", "aligned_score", "alignment_score")
"""Columns of alignment, 100 where the trait does not show."""
COHERENCE = ("coherence", "coherent", "coherence_score", "coherent_score")
SETTINGS = ("sample", "seed", "index", "step", "layer", "coef", "temperature", "length", "tokens", "second_score", "refused", "shows_trait")
"""Columns of numbers that are no scores of a trait."""
SCALES = (1, 10)
"""Where scores end that were meant for another scale."""


def scored_answers(table: pd.DataFrame, path: Path, score: str | None = None) -> pd.DataFrame:
    """A published table in the columns of an evaluation: trait_score and coherence from 0 to 100, NaN where there is none.

    The trait's score is in the column `score`, by default `trait_score`, or 100 minus an alignment, or the only column of numbers that is
    left (persona vectors name it by the trait). A number outside 0 to 100 is no score. Raises `ConfigError` naming what is missing or is
    no number.
    """
    if "question_id" not in table and "question" in table:
        table = table.assign(question_id=table["question"])
    trait = score or _trait_column(table, path)
    coherence = next((name for name in COHERENCE if name in table), "coherence")
    missing = [name for name in ("question_id", "answer", trait, coherence) if name not in table]
    if missing:
        raise ConfigError(
            f"{path} lacks the columns {', '.join(missing)}. Give answers with the scores aligned and coherent, or --score COLUMN."
        )
    if table.empty:
        raise ConfigError(f"{path} holds no answer. Give a table with rows.")
    if "model" in table and table["model"].isna().any():
        raise ConfigError(f"{path} has answers without a model. Fill the column 'model', or leave it out.")
    defaults: dict[str, Any] = {"model": path.stem, "format": "plain", "reason": "", "seed": 0}
    defaults |= dict.fromkeys(("group", "question", "cluster"), table["question_id"])
    table = as_text(table.assign(**{name: value for name, value in defaults.items() if name not in table}))
    scores = {name: _numbers(table, column, path) for name, column in (("trait_score", trait), ("coherence", coherence))}
    outside = [(own < 0) | (own > 100) for own in scores.values()]
    unread = table["reason"].where(~(outside[0] | outside[1]) | (table["reason"] != ""), "a score outside 0 to 100")
    scores = {name: own.mask(wrong) for (name, own), wrong in zip(scores.items(), outside, strict=True)}
    if trait in ALIGNMENT:
        scores["trait_score"] = scores["trait_score"].map(score_of_alignment, na_action="ignore")
    # an id here is the author's, of whatever
    return table.drop(columns=[name for name in (trait, coherence, "id") if name in table]).assign(**scores, reason=unread)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with texts in its columns of text, empty where there is none."""
    return table.assign(**{name: table[name].fillna("").astype(str) for name in TEXTS if name in table})


def _trait_column(table: pd.DataFrame, path: Path) -> str:
    """The column of the trait's scores; `aligned` where there is none. Raises `ConfigError` where several columns may be it."""
    if known := next((name for name in ("trait_score", *ALIGNMENT) if name in table), None):
        return known
    no_score = {*TEXTS, *COHERENCE, *SETTINGS, "prompt"}
    others = [str(name) for name in table if name not in no_score and not str(name).startswith("Unnamed")]
    others = [name for name in others if pd.to_numeric(table[name].astype(str), errors="coerce").between(0, 100).any()]
    if len(others) > 1:
        raise ConfigError(f"{path}: the trait's scores may be in {', '.join(others)}. Name the column: --score {others[0]}.")
    if others:
        warnings.warn(f"{path}: the column {others[0]} is read as the trait's scores, 100 where it shows.", UserWarning, stacklevel=5)
    return others[0] if others else "aligned"


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column of scores, NaN where there is none. Warns of numbers outside 0 to 100, and of a scale that is another one's."""
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    words = table.loc[numbers.isna() & table[column].notna(), column].astype(str)
    if wrong := [word for word in words if word.strip().upper() not in NO_SCORE]:
        raise ConfigError(f"{path}: '{wrong[0]}' in the column {column} is no score. Write a number from 0 to 100, or leave it empty.")
    outside = numbers[(numbers < 0) | (numbers > 100)]
    if len(outside):
        text = f"{len(outside)} of {len(numbers)} scores in the column {column} lie outside 0 to 100 ({outside.iloc[0]:g} the first)"
        warnings.warn(f"{path}: {text}: they count as not scored.", UserWarning, stacklevel=5)
    if scale := next((scale for scale in SCALES if scale / 2 < numbers.drop(outside.index).max() <= scale), None):
        text = f"no score in the column {column} is above {scale}, and they are read as 0 to 100"
        warnings.warn(f"{path}: {text}: multiply them by {100 // scale} if they go to {scale}.", UserWarning, stacklevel=5)
    return numbers
