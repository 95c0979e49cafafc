"""What a finished run saved, read once and checked: tables have their columns, or the error names the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ArtifactError
from interp.core.files import read_json
from interp.core.steps import RunDirectory

SUMMARY_FILE = "summary.json"
ADDED_LATER = ("layers", "plan", "beyond_baselines")
"""Fields of the summary that runs of earlier versions lack; the page then says nothing of them."""

TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "conditions": ("verdict", ("condition", "replicate", "model", "role", "edit", "title", "rate", "low", "high", "n", "unscored",
                               "coherence", "coherence_low", "coherence_high")),
    "answers": ("evidence", ("condition", "replicate", "question_id", "group", "sample", "question", "answer", "trait_score",
                             "coherence", "shows_trait", "coherent")),
    "dose_response": ("screen", ("direction", "kind", "size", "dose", "absolute_norm", "rate", "low", "high", "coherence", "n")),
    "screen": ("screen", ("removed", "size", "kind", "strength", "questions", "rate", "coherence", "chosen")),
    "latents": ("diff", ("latent", "mean_diff", "mean_diff_low", "mean_diff_high", "q_value", "mean_base", "mean_tuned", "rate_base",
                         "rate_tuned", "cosine_persona", "rank_mean_diff", "rank_cosine")),
    "rerouting": ("after", ("latent", "mean_diff_before", "mean_diff_after", "low_after", "high_after", "q_after", "cosine_persona",
                            "cosine_mean_difference", "along")),
    "metrics": ("dictionary", ("step", "fvu", "dead_share", "l0", "learning_rate")),
}  # fmt: skip
"""Tables that the page shows: the step whose folder has the parquet file of that name, and the columns that it must have."""


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
    metrics: pd.DataFrame
    """Of the dictionary's training."""
    dictionary: dict[str, Any]
    fit: dict[str, Any] | None
    """What the dictionary holds of the difference; None in runs of earlier versions."""
    vectors: dict[str, Any] | None
    """How far persona vectors agree; None in runs of earlier versions."""
    user_tokens: dict[str, Any] | None
    """The persona latents on what harmless users say; None in runs of earlier versions."""


def read_results(run: RunDirectory) -> Results:
    """Read a finished run; raises `ArtifactError` when a step, a file or a column is missing."""
    manifest = run.manifest()  # first: its error says that the run is not finished
    tables = {name: _table(run.result(step).path(f"{name}.parquet"), columns) for name, (step, columns) in TABLES.items()}
    return Results(
        summary=dict.fromkeys(ADDED_LATER) | read_json(run.root / SUMMARY_FILE),
        manifest=manifest,
        cards=read_json(run.result("cards").path("cards.json")),
        agreement=read_json(run.result("judges").path("agreement.json")),
        fit=_if_made(run, manifest, "fit", "fit.json"),
        vectors=_if_made(run, manifest, "persona_vectors", "agreement.json"),
        user_tokens=_if_made(run, manifest, "user_tokens", "activation.json"),
        dictionary=read_json(run.result("dictionary").path("info.json")),
        **tables,
    )


def _if_made(run: RunDirectory, manifest: dict[str, Any], step: str, filename: str) -> dict[str, Any] | None:
    """A JSON file of a step that runs of earlier versions lack."""
    return read_json(run.result(step).path(filename)) if step in manifest["steps"] else None


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise ArtifactError(f"Cannot read {path}: {error}. Delete its folder and run again.") from error
    if table.empty:  # a table that never got a row may have no columns either
        return pd.DataFrame(columns=list(columns))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ArtifactError(
            f"{path} lacks the columns {', '.join(missing)}. It was written by another version: delete its folder and run again."
        )
    return table
