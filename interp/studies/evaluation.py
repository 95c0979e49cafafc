"""What an evaluation found, as tables and on disk: evaluation.json for scripts, judged.parquet with every answer and judgement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from interp import __version__
from interp.causality.effects import Effect, paired_effect
from interp.core.files import write_json, write_parquet
from interp.core.formatting import plain_records
from interp.core.steps import EVALUATION_FILE, StepResult
from interp.evaluation.hosted import parse_hosted
from interp.evaluation.rates import Thresholds, flagged, flags, gold_columns, rate_row, rate_table
from interp.studies.evaluation_config import RateSettings
from interp.studies.gold import GoldLabels
from interp.traits import Trait

JUDGED_FILE = "judged.parquet"
SAMPLES_SHOWN = 12


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

    def _repr_html_(self) -> str:
        """The rates by model, for Jupyter."""
        whole = self.rates[self.rates["by"] == "all"]
        shown = pd.DataFrame({"model": whole["short"], self.about["words"]["shown"]: [wording(row) for row in whole.to_dict("records")]})
        counts = whole[["n", "unscored", "incoherent", "refused", "agreement_auroc"]]
        names = {"n": "of", "unscored": "not scored", "agreement_auroc": "judge AUROC"}
        return str(pd.concat([shown, counts.rename(columns=names)], axis=1).to_html(index=False, na_rep="–", float_format="{:.3f}".format))

    def as_json(self) -> dict[str, Any]:
        """For scripts and the page."""
        left_out = [
            m is None and c is not False for m, c in zip(*(flags(self.answers, n) for n in ("shows_trait", "coherent")), strict=True)
        ]
        reasons = self.answers[left_out].groupby(["model", "reason"], sort=False).size().reset_index(name="count")
        shown = self.answers.groupby("model", sort=False).head(SAMPLES_SHOWN)
        return self.about | {
            "folders": [str(step.folder) for step in self.steps.values()],
            "rates": plain_records(self.rates),
            "differences": plain_records(self.differences),
            "measures": plain_records(self.measures),
            "reasons": plain_records(reasons),
            "samples": plain_records(shown[["model", "question", "answer", "trait_score", "coherence", "shows_trait"]]),
        }


@dataclass(frozen=True)
class Words:
    """What answers are called that show the trait, and those that do not."""

    trait: str
    shown: str
    not_shown: str

    @staticmethod
    def of(trait: Trait) -> Words:
        """Those of a trait."""
        return Words(trait.name, trait.shown, trait.not_shown)


@dataclass(frozen=True)
class Judged:
    """By whom and how answers were judged."""

    spec: str
    identity: list[str]
    """Content keys of the judges."""
    thresholds: Thresholds
    words: Words
    agreement: list[dict[str, Any]]
    """Its agreement with hand labels: a row for each kind of model (`agreement.agreement`), or empty."""


def summarised(
    config: RateSettings,
    steps: dict[str, StepResult],
    judged: pd.DataFrame,
    measures: pd.DataFrame,
    judge: Judged,
    gold: GoldLabels | None,
) -> Evaluation:
    """Rates and differences of judged answers, the first model's taken from the others'.

    `measures` is a table of `measure_table`, or empty.
    """
    settings = config.model_dump(mode="json")
    answers = flagged(judged, judge.thresholds)
    models = list(answers["model"].unique())
    agreed = {row["group"]: row for row in judge.agreement}
    rates = rate_table(answers, config.interval)
    by_labels = {} if gold is None else gold.rates(answers)
    rates = pd.DataFrame(
        [
            row | {"short": short_names(models)[row["model"]]} | gold_columns(by_labels.get(row["model"]) if row["by"] == "all" else None)
            | _agreement(row["model"], agreed)
            for row in rates.to_dict("records")
        ]
    )  # fmt: skip
    about = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "config": settings,
        "how": settings["interval"],
        "judge": {"name": judge.spec.partition(":")[0], "spec": judge.spec, "identity": judge.identity, **asdict(judge.thresholds)},
        "words": asdict(judge.words),
        "agreement": judge.agreement,
    }
    return Evaluation(steps, answers, rates, differences(answers, models[0], config.seed), measures, about)


def wording(row: Mapping[Any, Any]) -> str:
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
    first = answers[answers["model"] == against]
    rows = []
    for model, own in answers.groupby("model", sort=False):
        if model == against:
            continue
        effect = paired_effect(own, first, seed)
        found = asdict(effect) if effect else dict.fromkeys((part.name for part in fields(Effect)), math.nan)
        if effect and effect.low == effect.high:
            found |= _newcombe(rate_row(own), rate_row(first))
        rows.append({"model": model, "against": against, **found})
    return pd.DataFrame(rows, columns=["model", "against", *(part.name for part in fields(Effect))])


def _newcombe(own: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float]:
    """Ends of a difference of two rates, from the ends of both."""
    gap = own["rate"] - first["rate"]
    below = math.hypot(own["rate"] - own["low"], first["high"] - first["rate"])
    above = math.hypot(own["high"] - own["rate"], first["rate"] - first["low"])
    return {"low": gap - below, "high": gap + above}


def short_names(models: Sequence[str]) -> dict[str, str]:
    """The last part of each model's path, or the name of a served one, where that tells them apart."""
    last = {model: (model.partition("@http")[0] if parse_hosted(model) else model).rstrip("/").rsplit("/", 1)[-1] for model in models}
    return last if len(set(last.values())) == len(models) else {model: model for model in models}


def _agreement(model: str, agreed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How the judge agrees with hand labels: of answers like those of RUN@ablated, or of all where the model is none of a run."""
    what = model.rpartition("@")[2] if "@" in model and not parse_hosted(model) else ""
    row = agreed.get(what, agreed.get("all"))
    found = {"agreement_group": row and row["group"]} | {f"agreement_{name}": row and row[name] for name in ("auroc", "accuracy")}
    return found | {"agreement_n": row and row["n"] - row["unscored"]}
