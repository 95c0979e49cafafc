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
from interp.artifacts import StepResult, write_json
from interp.causality.effects import Effect, paired_effect
from interp.config import StepConfig
from interp.errors import ConfigError
from interp.evaluation.labels.reading import read_hand_labels
from interp.evaluation.misalignment import Lines, flagged, flags, gold_columns, rate_table
from interp.evaluation.prediction_powered import prediction_powered_rate
from interp.studies.measuring import measure_table
from interp.studies.tables import plain_records

EVALUATION_FILE, JUDGED_FILE = "evaluation.json", "judged.parquet"
SAMPLES_SHOWN = 12


@dataclass(frozen=True)
class Evaluation:
    """What was asked, answered and judged."""

    steps: dict[str, StepResult]
    answers: pd.DataFrame
    """A row an answer: id, model, question_id, group, format, system, question, sample, seed, answer, and what the judges say."""
    rates: pd.DataFrame
    """Rows by model: `by` is all, format or group, `value` which; rate, interval, counts, and the judge's agreement with hand labels."""
    differences: pd.DataFrame
    """Misaligned rate of each further model minus that of the first, paired by question."""
    measures: pd.DataFrame
    """Rows by model and measure; empty where none was asked for."""
    about: dict[str, Any]
    """Settings, judge and lines."""

    def _repr_html_(self) -> str:
        """The rates by model, for Jupyter."""
        whole = self.rates[self.rates["by"] == "all"]
        shown = pd.DataFrame({"model": whole["short"], "misaligned": [wording(row) for row in whole.to_dict("records")]})
        counts = whole[["n", "unscored", "incoherent", "refused", "agreement_auroc"]]
        names = {"n": "of", "unscored": "not scored", "agreement_auroc": "judge AUROC"}
        return str(pd.concat([shown, counts.rename(columns=names)], axis=1).to_html(index=False, na_rep="–", float_format="{:.3f}".format))

    def as_json(self) -> dict[str, Any]:
        """For scripts and the page."""
        unscored = self.answers[self.answers[["alignment", "coherence"]].isna().any(axis=1) & (self.answers["reason"] != "")]
        reasons = unscored.groupby(["model", "reason"], sort=False).size().reset_index(name="count")
        shown = self.answers.groupby("model", sort=False).head(SAMPLES_SHOWN)
        return self.about | {
            "folders": [str(step.folder) for step in self.steps.values()],
            "rates": plain_records(self.rates),
            "differences": plain_records(self.differences),
            "measures": plain_records(self.measures),
            "reasons": plain_records(reasons),
            "samples": plain_records(shown[["model", "question", "answer", "alignment", "coherence", "misaligned"]]),
        }


def summarised(
    config: StepConfig,
    steps: dict[str, StepResult],
    judged: pd.DataFrame,
    measures: pd.DataFrame,
    judge: str,
    lines: Lines,
    agreement: Sequence[dict[str, Any]],
) -> Evaluation:
    """Rates and differences of judged answers, the first model's taken from the others'; `config` has interval, labels and seed.

    `agreement` has a row for each group of hand labels (`agreement.agreement`).
    """
    settings = config.model_dump(mode="json")
    answers = flagged(one_question_in_all_formats(judged), lines)
    models = list(answers["model"].unique())
    agreed = {row["group"]: row for row in agreement}
    rates = rate_table(answers, settings["interval"])
    gold = _gold(answers, settings["labels"])
    rates = pd.DataFrame(
        [
            row | {"short": short_names(models)[row["model"]]} | gold_columns(gold.get(row["model"]) if row["by"] == "all" else None)
            | _agreement(row["model"], agreed)
            for row in rates.to_dict("records")
        ]
    )  # fmt: skip
    about = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "config": settings,
        "how": settings["interval"],
        "judge": {"name": judge.partition(":")[0], "spec": judge, **asdict(lines)},
        "agreement": list(agreement),
    }
    return Evaluation(steps, answers, rates, differences(answers, models[0], settings["seed"]), measure_table(measures), about)


def wording(row: Mapping[Any, Any]) -> str:
    """A rate with its interval, in percent."""
    if row["n"] == 0:
        return "nothing scored"
    rate, low, high = (f"{100 * row[name]:.0f}" for name in ("rate", "low", "high"))
    return f"{rate} % [{low}–{high}]"


def write_evaluation(folder: Path, result: Evaluation) -> None:
    """Write both files."""
    result.answers.astype({"misaligned": "boolean", "coherent": "boolean"}).to_parquet(folder / JUDGED_FILE)
    write_json(folder / EVALUATION_FILE, result.as_json())


def one_question_in_all_formats(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers with the plain question's id in every format: they are as alike as others to one question."""
    return answers.assign(question_id=answers["question_id"].str.replace(r"@(json|template)$", "", regex=True))


def differences(answers: pd.DataFrame, against: str, seed: int) -> pd.DataFrame:
    """A row for each model but one: difference, low, high, p, cohens_h, questions; NaN where too few are shared."""
    flagged_only = answers.assign(hostile=pd.Series(flags(answers, "misaligned"), index=answers.index, dtype=object))
    first = flagged_only[flagged_only["model"] == against]
    rows = []
    for model, own in flagged_only.groupby("model", sort=False):
        if model == against:
            continue
        effect = paired_effect(own, first, seed)
        found = asdict(effect) if effect else dict.fromkeys((part.name for part in fields(Effect)), math.nan)
        rows.append({"model": model, "against": against, **found})
    return pd.DataFrame(rows, columns=["model", "against", *(part.name for part in fields(Effect))])


def short_names(models: Sequence[str]) -> dict[str, str]:
    """The last part of each model's path, where that tells them apart."""
    last = {model: model.rstrip("/").rsplit("/", 1)[-1] for model in models}
    return last if len(set(last.values())) == len(models) else {model: model for model in models}


def _gold(answers: pd.DataFrame, labels: str | None) -> dict[str, Any]:
    """Rate of each model by hand labels of a part of its answers; a model without any has none."""
    if labels is None:
        return {}
    known = read_hand_labels(Path(labels))
    keys = ["id"] if "id" in known else ["question", "answer"]
    told = dict(zip(known[keys].itertuples(index=False, name=None), known["misaligned"], strict=True))
    found = {}
    for model, own in answers.groupby("model", sort=False):
        counted = own[[flag is not None for flag in flags(own, "misaligned")]]
        gold = [told.get(key) for key in counted[keys].itertuples(index=False, name=None)]
        if any(label is not None for label in gold):
            found[str(model)] = prediction_powered_rate(flags(counted, "misaligned"), gold, list(counted["question_id"]))
    if not found:
        raise ConfigError(
            f"No answer here is labelled in {labels}. Label answers drawn by 'personascope judge sample' from this evaluation."
        )
    return found


def _agreement(model: str, agreed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How the judge agrees with hand labels of answers of such a model: of edited ones for RUN@ablated, else of all."""
    _, at, what = model.rpartition("@")
    row = agreed.get(what if at and what in agreed else "all")
    names = ("auroc", "accuracy", "n")
    return {"agreement_group": row and row["group"]} | {f"agreement_{name}": row and row[name] for name in names}
