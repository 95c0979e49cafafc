"""`personascope judge`: judge tables, agreement with hand labels, fitting the probe, drawing answers to label."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.cli.shown import percent, plain_table, plain_warnings, print_json, written
from interp.core.errors import ConfigError, reason_of
from interp.core.files import write_parquet, write_text
from interp.evaluation.agreement import agreement
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.embedding import SentenceEmbedder
from interp.evaluation.judges.fitted_probe import FittedProbe, fit_probe
from interp.evaluation.labels.reading import read_hand_labels, read_table
from interp.evaluation.misalignment import flags
from interp.evaluation.questions import read_questions
from interp.studies.judging import open_bench
from interp.studies.scored_tables import judged_answers

BLIND = ["id", "question", "answer"]
SHOWN = 5


def judge_table(
    source: Path, out: Path, spec: str, questions: str | None, prompts: str | None, device: str, dtype: str, as_json: bool
) -> None:
    """Write the answers of `source` with what the judge says of them."""
    answers = _answers(source)
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out} is no .csv or .parquet file. Name one with --out.")
    with plain_warnings():
        bench = open_bench(spec, read_questions(questions).questions if questions else (), prompts, device, dtype, quiet=as_json)
        judged = bench.grade(answers)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Cannot make {out.parent}: {reason_of(error)}. The judgements are kept: name another file with --out."
        ) from error
    if out.suffix == ".csv":
        write_text(out, judged.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
    else:
        write_parquet(out, judged)
    scored = {
        "answers": len(judged),
        "alignment": int(judged["alignment"].notna().sum()),
        "coherence": int(judged["coherence"].notna().sum()),
    }
    if as_json:
        print_json({"verb": "judge", "judge": spec, "table": str(out), "scored": scored})
        return
    print(f"{scored['answers']} answers; alignment of {scored['alignment']}, coherence of {scored['coherence']} was scored. Saved in {out}")
    for reason, count in judged.loc[judged["reason"] != "", "reason"].value_counts().head(SHOWN).items():
        print(f"  {count} × {reason}")


def show_agreement(spec: str, labels: Path | None, prompts: str | None, device: str, dtype: str, as_json: bool) -> None:
    """Print how far a judge agrees with hand labels."""
    known = None if labels is None else read_hand_labels(labels)
    with plain_warnings():
        found = open_bench(spec, (), prompts, device, dtype, as_json).agreement(known)
    if as_json:
        print_json(found)
        return
    _show(found)


def fit_from_labels(labels: Path, out: Path, as_json: bool) -> None:
    """Fit the probe and print how it does on questions left out of the fit."""
    known = read_hand_labels(labels)
    if (out / "probe.json").exists():
        raise ConfigError(f"{out} holds a fitted probe already. Choose another folder with --out.")
    embedder = SentenceEmbedder()
    fit = fit_probe(known, labels, out, embedder)
    found = agreement(
        FittedProbe.name, FittedProbe.misaligned_below, known, [Judgement(100 * (1 - float(p)), None) for p in fit.probability]
    )
    if as_json:
        print_json(found | {"folder": str(out)})
        return
    print("On answers to questions that were left out of the fit:")
    _show(found)
    print(f"\nUse it as --judge probe:{out}")


def write_sample(source: Path, out: Path, n: int, seed: int) -> None:
    """Write `n` answers of each model, scored or not, but none that was found incoherent, shuffled and blind."""
    answers = _answers(source)
    if not {"id", "model", "coherent"} <= set(answers):
        raise ConfigError(f"{source} is no evaluation: give a folder that 'personascope evaluate' wrote.")
    if out.exists():
        raise ConfigError(f"{out} is there already, and may hold labels. Choose another file with --out.")
    counted = answers[[flag is not False for flag in flags(answers, "coherent")]]
    drawn = [own.sample(min(n, len(own)), random_state=seed) for _, own in counted.groupby("model", sort=False)]
    if not drawn:
        raise ConfigError(f"{source} has no answer that was not found incoherent: there is nothing to label.")
    table = pd.concat(drawn).sample(frac=1, random_state=np.random.RandomState(seed))
    write_text(out, table[BLIND].assign(misaligned="").to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
    print(f"{len(table)} answers in {out}. Fill the column 'misaligned' with 0 and 1, then: personascope compare {source} --labels {out}")


def _answers(source: Path) -> pd.DataFrame:
    """A table with the columns question and answer."""
    table = judged_answers(source) if source.is_dir() else read_table(source)
    missing = [name for name in ("question", "answer") if name not in table]
    if missing:
        raise ConfigError(f"{source} lacks the columns {', '.join(missing)}. Give a table of questions and answers.")
    return table.assign(**{name: table[name].fillna("").astype(str) for name in ("question", "answer")})


def _show(found: dict[str, Any]) -> None:
    console = Console()
    table = plain_table("answers of", "labelled", "misaligned", "not scored", "AUROC", "right", "kappa")
    for row in found["groups"]:
        counts = [str(row[name]) for name in ("n", "misaligned", "unscored")]
        table.add_row(row["group"], *counts, _number(row["auroc"]), percent(row["accuracy"]), _number(row["kappa"], 2))
    console.print(table)
    console.print(Text("\nCalibration: judged and labelled share of misaligned answers"))
    bins = plain_table("judged between", "answers", "judged", "labelled")
    for row in found["calibration"]:
        if row["n"]:
            bins.add_row(
                f"{100 * row['from']:.0f}–{100 * row['to']:.0f} %", str(row["n"]), percent(row["judged"]), percent(row["labelled"])
            )
    console.print(bins)
    for row in found["disagreements"][:SHOWN]:
        label = "misaligned" if row["label"] else "not misaligned"
        console.print(Text(f"\nlabelled {label}, alignment {row['alignment']:.0f}: ", style="dim"), written(row["answer"]))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
