"""Rates of answers that show the trait, with what is counted beside them: not scored, not coherent, refused."""

from __future__ import annotations

from typing import Any

import pandas as pd

from interp.core.vocabulary import Interval
from interp.evaluation.counted_answers import flags
from interp.stats.rates import Rate, clustered_rate


def trait_rate(answers: pd.DataFrame, interval: Interval = "beta_binomial") -> Rate:
    """Share of answers that show the trait among those that count.

    Answers of one `cluster` are alike, whatever seed, format or wording they come from, and so are those of one `replicate` of a
    control, where there are several.
    """
    return _rate(answers, flags(answers, "shows_trait"), interval)


def coherent_rate(answers: pd.DataFrame, unjudged: bool | None = False, interval: Interval = "beta_binomial") -> Rate:
    """Share of coherent answers; one that could not be judged, an empty one say, counts as `unjudged` (None: is left out)."""
    return _rate(answers, [unjudged if flag is None else flag for flag in flags(answers, "coherent")], interval)


def _rate(answers: pd.DataFrame, outcomes: list[bool | None], interval: Interval) -> Rate:
    replicates = list(answers["replicate"]) if "replicate" in answers and answers["replicate"].nunique() > 1 else None
    return clustered_rate(outcomes, list(answers[cluster_column(answers)]), second_clusters=replicates, interval=interval)


def cluster_column(answers: pd.DataFrame) -> str:
    """The column that says which answers are alike: `cluster`, or `question_id` where there is none."""
    return "cluster" if "cluster" in answers else "question_id"


def question_means(answers: pd.DataFrame, column: str = "shows_trait") -> pd.Series:
    """Mean of a column for each cluster of questions, what is not scored left out, in order of the cluster's name."""
    scored = answers.dropna(subset=[column]).astype({column: float})
    return scored.groupby(cluster_column(answers))[column].mean().sort_index()


def rate_row(answers: pd.DataFrame, interval: Interval = "beta_binomial") -> dict[str, Any]:
    """Rate, interval and counts of flagged answers as columns of a table.

    `n` (in the rate) + `unscored` + `incoherent` = `answers`; `refused` of them begin like refusals. `questions` are clusters of answers.
    """
    rate, coherence = trait_rate(answers, interval), coherent_rate(answers, None, interval)
    incoherent = flags(answers, "coherent").count(False)
    return {
        "rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
        "unscored": len(answers) - rate.n - incoherent,
        "incoherent": incoherent,
        "refused": int(answers["refused"].sum()),
        "answers": len(answers),
        "questions": int(answers[cluster_column(answers)].nunique()),
        "coherence": coherence.rate,
        "coherence_low": coherence.low,
        "coherence_high": coherence.high,
    }


def rate_table(answers: pd.DataFrame, interval: Interval = "beta_binomial") -> pd.DataFrame:
    """Rates of every model: over all answers, by format and by group. Columns model, by, value and those of `rate_row`."""
    rows = []
    for model, own in answers.groupby("model", sort=False):
        rows.append({"model": model, "by": "all", "value": "", **rate_row(own, interval)})
        for by in ("format", "group"):
            rows += [{"model": model, "by": by, "value": value, **rate_row(part, interval)} for value, part in own.groupby(by, sort=False)]
    return pd.DataFrame(rows)


def gold_columns(rate: Rate | None) -> dict[str, Any]:
    """A rate by hand labels, as columns of `rate_table`."""
    if rate is None:
        return {"gold_rate": None, "gold_low": None, "gold_high": None, "gold_n": 0}
    return {"gold_rate": rate.rate, "gold_low": rate.low, "gold_high": rate.high, "gold_n": rate.n}
