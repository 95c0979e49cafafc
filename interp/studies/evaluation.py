"""The result of an evaluation, as tables and on disk: evaluation.json for scripts, judged.parquet with every answer and judgement."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from interp import __version__
from interp.causality.effects import Effect, paired_effect
from interp.core.files import write_json, write_parquet
from interp.core.formatting import plain_records
from interp.core.steps import EVALUATION_FILE, StepResult
from interp.evaluation.counted_answers import Thresholds, flagged, flags
from interp.evaluation.hosted_model import parse_hosted
from interp.evaluation.rates import gold_columns, rate_row, rate_table
from interp.studies.evaluation_config import RateSettings
from interp.studies.human_labels import HumanLabels

JUDGED_FILE = "judged.parquet"
SAMPLES_SHOWN = 12
LEAST_NAME, LONGEST_NAME = 3, 24
"""Letters of a short name of a model: fewer say nothing, more find no place in a table."""


@dataclass(frozen=True)
class Judged:
    """By whom and how answers were judged."""

    spec: str
    identity: list[str]
    """Content keys of the judges."""
    thresholds: Thresholds
    words: dict[str, str]
    """The trait's name (`trait`), and its words for answers that show it (`shown`) and that do not (`not_shown`)."""
    agreement: list[dict[str, Any]]
    """Its agreement with hand labels: a row for each kind of model (`agreement.agreement`), or empty."""


@dataclass(frozen=True)
class Evaluation:
    """What was asked, answered and judged."""

    steps: dict[str, StepResult]
    answers: pd.DataFrame
    """A row an answer: id, model, question_id, cluster, group, format, system, question, sample, seed, answer, and what scoring adds."""
    rates: pd.DataFrame
    """Rows by model: `by` is all, format or group, `value` which; rate, interval, counts, and the judge's agreement with hand labels."""
    differences: pd.DataFrame
    """Trait rate of each further model minus that of the first, paired by question."""
    measures: pd.DataFrame
    """Rows by model and measure; empty where none was asked for."""
    about: dict[str, Any]
    """Settings, judge and thresholds, words of the trait."""

    def __repr__(self) -> str:
        return self._overview().to_string(index=False, na_rep="–", float_format="{:.3f}".format)

    def _repr_html_(self) -> str:
        """The rates by model, for Jupyter."""
        return str(self._overview().to_html(index=False, na_rep="–", float_format="{:.3f}".format))

    def _overview(self) -> pd.DataFrame:
        """A row for each model: its rate, how many answers that is of, and the judge's agreement with hand labels."""
        whole = self.rates[self.rates["by"] == "all"]
        shown = pd.DataFrame({"model": whole["short"], self.about["words"]["shown"]: [_wording(row) for row in whole.to_dict("records")]})
        counts = whole[["n", "unscored", "incoherent", "refused", "agreement_auroc"]]
        names = {"n": "of", "unscored": "not scored", "agreement_auroc": "judge AUROC"}
        return pd.concat([shown, counts.rename(columns=names)], axis=1)

    def as_json(self) -> dict[str, Any]:
        """For scripts and the page."""
        both = zip(flags(self.answers, "shows_trait"), flags(self.answers, "coherent"), strict=True)
        left_out = [shows is None and coherent is not False for shows, coherent in both]
        reasons = self.answers[left_out].groupby(["model", "reason"], sort=False).size().reset_index(name="count")
        shown = self.answers.groupby("model", sort=False).head(SAMPLES_SHOWN)
        tables = {"rates": self.rates, "differences": self.differences, "measures": self.measures, "reasons": reasons}
        tables["samples"] = shown[["model", "question", "answer", "trait_score", "coherence", "shows_trait"]]
        folders = [str(step.folder) for step in self.steps.values()]
        return self.about | {"folders": folders} | {name: plain_records(table) for name, table in tables.items()}


def summarised(
    config: RateSettings,
    steps: dict[str, StepResult],
    answers: pd.DataFrame,
    measures: pd.DataFrame,
    judged: Judged,
    labels: HumanLabels | None,
) -> Evaluation:
    """Rates and differences of scored answers, the first model's taken from the others'.

    `measures` is a table of `measure_table`, or empty.
    """
    settings, answers = config.model_dump(mode="json"), flagged(answers, judged.thresholds)
    models = list(answers["model"].unique())
    short, agreed = _short_names(models), {row["group"]: row for row in judged.agreement}
    by_labels = {} if labels is None else labels.rates(answers)
    rates = []
    for row in rate_table(answers, config.interval).to_dict("records"):
        labelled = gold_columns(by_labels.get(row["model"]) if row["by"] == "all" else None)
        rates.append(row | {"short": short[row["model"]]} | labelled | _agreement(row["model"], agreed))
    thresholds = asdict(judged.thresholds)
    about = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "config": settings,
        "how": settings["interval"],
        "judge": {"name": judged.spec.partition(":")[0], "spec": judged.spec, "identity": judged.identity, **thresholds},
        "words": judged.words,
        "agreement": judged.agreement,
    }
    return Evaluation(steps, answers, pd.DataFrame(rates), differences(answers, models[0], config.seed), measures, about)


def _wording(row: Mapping[Any, Any]) -> str:
    """A rate with its interval, in percent."""
    if row["n"] == 0:
        return "nothing scored"
    rate, low, high = (f"{100 * row[name]:.0f}" for name in ("rate", "low", "high"))
    return f"{rate} % [{low}–{high}]"


def write_evaluation(folder: Path, result: Evaluation) -> None:
    """Write both files."""
    write_parquet(folder / JUDGED_FILE, result.answers.astype({"shows_trait": "boolean", "coherent": "boolean"}))
    write_json(folder / EVALUATION_FILE, result.as_json())


def differences(answers: pd.DataFrame, against: str, seed: int) -> pd.DataFrame:
    """A row for each model but one: difference, low, high, p, cohens_h, questions; NaN where too few are shared.

    Where no question tells the models apart a bootstrap has nothing to draw, and the interval is made of those of both rates, as if they
    were independent (Newcombe 1998).
    """
    columns = [part.name for part in fields(Effect)]
    models = {str(model): own for model, own in answers.groupby("model", sort=False)}
    first, rows = models.pop(against), []
    for model, own in models.items():
        effect = paired_effect(own, first, seed)
        row = asdict(effect) if effect else dict.fromkeys(columns, math.nan)
        if effect and effect.low == effect.high:
            row |= _newcombe(rate_row(own), rate_row(first))
        rows.append({"model": model, "against": against, **row})
    return pd.DataFrame(rows, columns=["model", "against", *columns])


def _newcombe(own: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float]:
    """Ends of a difference of two rates, from the ends of both."""
    gap = own["rate"] - first["rate"]
    below = math.hypot(own["rate"] - own["low"], first["high"] - first["rate"])
    above = math.hypot(own["high"] - own["rate"], first["rate"] - first["low"])
    return {"low": gap - below, "high": gap + above}


def _short_names(models: Sequence[str]) -> dict[str, str]:
    """As few last parts of the models' paths, or of the names of served ones, as tell them apart; long ones without what all begin with."""
    names = {model: model.partition("@http")[0] if parse_hosted(model) else model for model in models}
    deepest = max((name.count("/") + 1 for name in names.values()), default=1)
    for parts in range(1, deepest + 1):
        short = {model: _last_parts(name, parts) for model, name in names.items()}
        if len(set(short.values())) == len(models):
            return _without_beginning(short)
    return {model: model for model in models}


def _last_parts(name: str, parts: int) -> str:
    """The last parts of a path, one more where they say too little; the whole of what is no path."""
    last = "/".join(name.rstrip("/").split("/")[-parts:])
    if not re.fullmatch(r"[\w.@:+~ /-]+", name) or last == name:
        return name
    return last if len(last) >= LEAST_NAME else _last_parts(name, parts + 1)


def _without_beginning(names: Mapping[str, str]) -> dict[str, str]:
    """Names that are long and alike in the beginning without it, up to the end of a word."""
    first = next(iter(names.values()), "")
    alike = first[: sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names.values(), strict=False)))]
    cut = max((alike.rfind(sign) + 1 for sign in "-_/ "), default=0)
    if len(names) == 1 or max(map(len, names.values()), default=0) <= LONGEST_NAME or cut < LEAST_NAME:
        return dict(names)
    return {model: f"…{name[cut:]}" for model, name in names.items()}


def _agreement(model: str, agreed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How the judge agrees with hand labels: of answers like those of RUN@ablated, or of all where the model is none of a run."""
    kind = model.rpartition("@")[2] if "@" in model and not parse_hosted(model) else ""
    row = agreed.get(kind, agreed.get("all"))
    columns = {"agreement_group": row and row["group"]} | {f"agreement_{name}": row and row[name] for name in ("auroc", "accuracy")}
    return columns | {"agreement_n": row and row["n"] - row["unscored"]}
