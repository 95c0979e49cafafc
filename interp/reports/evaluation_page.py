"""The page of an evaluation: how often each model shows the trait, from `evaluation.json` alone, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ArtifactError, reason_of
from interp.core.files import write_text
from interp.core.steps import EVALUATION_FILE
from interp.reports import evaluation_views as views
from interp.reports import numbers
from interp.reports.evaluation_figure import By, rates_chart, rates_figure
from interp.reports.self_contained import render_page

__all__ = ["rates_figure", "render_evaluation", "write_evaluation_page"]

PAGE_FILE = "evaluation.html"

HEAD = ("created", "version", "config", "how", "judge", "words")
JUDGE = ("name", "spec", "shows_above", "coherent_above")
COLUMNS = {
    "rates": ("model", "short", "by", "value", "rate", "low", "high", "n", "unscored", "incoherent", "refused", "answers", "coherence",
              "coherence_low", "coherence_high", "gold_rate", "gold_low", "gold_high", "gold_n", "agreement_group", "agreement_auroc",
              "agreement_accuracy", "agreement_n"),
    "differences": ("model", "against", "difference", "low", "high", "p", "cohens_h", "questions"),
    "measures": ("model", "name", "measure", "unit", "value", "low", "high", "n"),
    "reasons": ("model", "reason", "count"),
    "samples": ("model", "question", "answer", "trait_score", "coherence", "shows_trait"),
}  # fmt: skip
"""Tables of the file, each a list of rows, and what every row has."""


def write_evaluation_page(folder: Path) -> Path:
    """Write `<folder>/evaluation.html` from `<folder>/evaluation.json`; the same results give the same bytes.

    Raises `ArtifactError` when the file is missing, damaged, or of another version.
    """
    page = render_evaluation(_read(folder))
    path = folder / PAGE_FILE
    write_text(path, page)
    return path


def render_evaluation(found: Mapping[str, Any]) -> str:
    """The page as HTML, from what `evaluation.json` holds."""
    found = numbers.all_visible(dict(found))
    rates = pd.DataFrame(found["rates"], columns=[*COLUMNS["rates"], "questions"])
    models = views.models(rates)
    shown: list[By] = [by for by in views.SECTIONS if by == "all" or views.tells_more(rates, by)]
    word = found["words"]["shown"]
    charts = {f"rates-{by}": rates_chart(rates, by, word) for by in shown if (rates["by"] == by).any()}
    return render_page(
        "evaluation.html.j2",
        charts,
        found=found,
        judge=found["judge"],
        word=word,
        headline=views.headline(models, word),
        made=views.moment(found["created"]),
        finding=views.finding(found["rates"], models, word),
        facts=views.facts(found["config"]),
        models=models,
        sections={by: views.SECTIONS[by] for by in shown},
        rates={by: views.by_value(found["rates"], by) for by in shown},
        digits=views.digits(found["rates"]),
        gold=any(row["gold_n"] for row in found["rates"]),
        measures=views.measures(found["measures"]),
        reasons=views.by_model(found["reasons"]),
        samples=views.samples(found["samples"], found["judge"], found["words"]),
        interval_text=views.INTERVALS.get(found["how"], f"Intervals are 95 %, made by “{found['how']}”."),
        unscored=sum(row["unscored"] or 0 for row in found["rates"] if row["by"] == "all"),
        config_json=json.dumps(found["config"], indent=2, ensure_ascii=False),
    )


def _read(folder: Path) -> dict[str, Any]:
    """What the file holds, with every table and column that the page needs."""
    path = folder / EVALUATION_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no {EVALUATION_FILE}: name the folder of a finished evaluation, or evaluate first.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {path} ({reason_of(error)}): evaluate again, answers that are there are kept.") from error
    if isinstance(found, dict):
        missing = [name for name in (*HEAD, *COLUMNS) if name not in found]
        missing += [f"judge.{name}" for name in JUDGE if name not in found.get("judge", JUDGE)]
        for table, columns in COLUMNS.items():
            missing += [f"{table}.{column}" for column in columns if any(column not in row for row in found.get(table, []))]
    else:
        missing = ["all that it should hold"]
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}, as another version wrote it: evaluate again with this one.")
    return dict(found)
