"""What a finished run saved, read once and checked: tables have their columns, or the error names the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.core.errors import ArtifactError
from interp.core.files import read_json
from interp.core.steps import RunDirectory

SUMMARY_FILE = "summary.json"

CONDITION_COLUMNS = ("condition", "replicate", "model", "role", "edit", "title", "rate", "low", "high", "n", "unscored",
                     "coherence", "coherence_low", "coherence_high")  # fmt: skip
ANSWER_COLUMNS = ("condition", "replicate", "question_id", "group", "sample", "question", "answer", "trait_score",
                  "coherence", "shows_trait", "coherent")  # fmt: skip
DOSE_COLUMNS = ("direction", "kind", "dose", "absolute_norm", "rate", "low", "high", "coherence", "n")
SCREEN_COLUMNS = ("latent", "metrics", "mean_diff_rank", "cosine_rank", "ablated_rate", "ablated_low", "ablated_high",
                  "ablated_coherence", "steered_rate", "steered_dose", "chosen")  # fmt: skip
LATENT_COLUMNS = ("latent", "mean_diff", "mean_diff_low", "mean_diff_high", "q_value", "mean_base", "mean_tuned", "rate_base", "rate_tuned",
                  "cosine_persona", "rank_mean_diff", "rank_cosine")  # fmt: skip
REROUTING_COLUMNS = ("latent", "mean_diff_before", "mean_diff_after", "low_after", "high_after", "q_after", "cosine_persona",
                     "cosine_mean_difference", "along")  # fmt: skip
METRIC_COLUMNS = ("step", "fvu", "dead_share", "l0", "learning_rate")


@dataclass(frozen=True)
class Results:
    """Everything the page shows."""

    summary: dict[str, Any]
    manifest: dict[str, Any]
    conditions: pd.DataFrame
    answers: pd.DataFrame
    dose_response: pd.DataFrame
    screen: pd.DataFrame
    latents: pd.DataFrame
    rerouting: pd.DataFrame
    cards: list[dict[str, Any]]
    agreement: dict[str, Any]
    dictionary_metrics: pd.DataFrame
    dictionary: dict[str, Any]


def read_results(run: RunDirectory) -> Results:
    """Read a finished run; raises `ArtifactError` when a step, a file or a column is missing."""
    manifest = run.manifest()  # first: its error says that the run is not finished
    return Results(
        summary=read_json(run.root / SUMMARY_FILE),
        manifest=manifest,
        conditions=_table(run, "verdict", "conditions.parquet", CONDITION_COLUMNS),
        answers=_table(run, "evidence", "answers.parquet", ANSWER_COLUMNS),
        dose_response=_table(run, "screen", "dose_response.parquet", DOSE_COLUMNS),
        screen=_table(run, "screen", "screen.parquet", SCREEN_COLUMNS),
        latents=_table(run, "diff", "latents.parquet", LATENT_COLUMNS),
        rerouting=_table(run, "after", "rerouting.parquet", REROUTING_COLUMNS),
        cards=read_json(run.result("cards").path("cards.json")),
        agreement=read_json(run.result("judges").path("agreement.json")),
        dictionary_metrics=_table(run, "dictionary", "metrics.parquet", METRIC_COLUMNS),
        dictionary=read_json(run.result("dictionary").path("info.json")),
    )


def _table(run: RunDirectory, step: str, filename: str, columns: Sequence[str]) -> pd.DataFrame:
    path = run.result(step).path(filename)
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise ArtifactError(f"Cannot read {path}: {error}. Delete its folder and run again.") from error
    if table.empty:  # a table that never got a row may have no columns either
        return pd.DataFrame(columns=list(columns))
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise ArtifactError(
            f"{path} lacks the columns {', '.join(lacking)}. It was written by another version: delete its folder and run again."
        )
    return table
