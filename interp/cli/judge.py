"""`personascope judge`: judge tables, agreement with hand labels, fitting the probe, drawing answers to label."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from interp.cli.arguments import AgreeArguments, FitArguments, JudgeArguments, Output, SampleArguments
from interp.core.errors import ConfigError
from interp.core.files import write_parquet, write_text
from interp.evaluation.counted_answers import flags
from interp.evaluation.fitting import fit_probe
from interp.evaluation.hand_labels import read_hand_labels, read_table
from interp.evaluation.judges.probe import SentenceEmbedder
from interp.evaluation.panel import Panel
from interp.evaluation.questions import read_questions
from interp.reports.evaluation_terminal import show_agreement
from interp.studies.comparing import judged_answers
from interp.studies.evaluating import panel_of
from interp.studies.evaluation_config import JudgeConfig
from interp.traits.trait import PROBE

BLIND = ["id", "question", "answer"]
SHOWN = 5


def answers(config: JudgeConfig, arguments: JudgeArguments) -> None:
    """Write a table of answers with what the judges of the trait say of them."""
    table, out = _answers(arguments.answers), arguments.out
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out} is no .csv or .parquet file. Name one with --out.")
    panel = _panel(config, arguments)
    judged = panel.score(table)
    if out.suffix == ".csv":
        write_text(out, judged.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
    else:
        write_parquet(out, judged.astype({"shows_trait": "boolean", "coherent": "boolean"}))
    scored = {"answers": len(judged), **{name: int(judged[name].notna().sum()) for name in ("trait_score", "coherence")}}
    text = "{answers} answers; the trait was scored in {trait_score}, coherence in {coherence}. Saved in ".format(**scored) + str(out)
    reasons = judged.loc[judged["reason"] != "", "reason"].value_counts().head(SHOWN)
    lines = [text, *(f"  {count} × {reason}" for reason, count in reasons.items())]
    result = {"command": "judge", "trait": panel.trait.name, "judge": panel.spec, "table": str(out), "scored": scored}
    arguments.report(result, "\n".join(lines))


def agree(config: JudgeConfig, arguments: AgreeArguments) -> None:
    """Print how far a judge agrees with hand labels, by default the trait's."""
    known = None if arguments.labels is None else read_hand_labels(arguments.labels)
    panel = _panel(config, arguments)
    found = panel.agreement(known)
    arguments.report(found, partial(show_agreement, found, panel.trait.shown))


def _panel(config: JudgeConfig, arguments: Output) -> Panel:
    questions = read_questions(config.questions).questions if config.questions else ()
    return panel_of(config, questions, arguments.as_json)


def fit(arguments: FitArguments) -> None:
    """Fit the probe and print how it does on questions left out of the fit."""
    known, out = read_hand_labels(arguments.labels), arguments.out
    if (out / PROBE).exists():
        raise ConfigError(f"{out} holds a fitted probe already. Choose another folder with --out.")
    found = fit_probe(out, known, arguments.labels.name, SentenceEmbedder())
    arguments.report(found | {"folder": str(out)}, "On answers to questions that were left out of the fit:")
    if not arguments.as_json:
        show_agreement(found, "showing the trait")
        print(f"\nUse it as --judge probe:{out}")


def sample(arguments: SampleArguments) -> None:
    """Write some answers of each model, scored or not, but none that was found incoherent, shuffled and blind."""
    source, out, seed = arguments.evaluation, arguments.out, arguments.seed
    table = _answers(source)
    if not {"id", "model", "coherent"} <= set(table):
        raise ConfigError(f"{source} is no evaluation: give a folder that 'personascope evaluate' wrote.")
    if out.exists():
        raise ConfigError(f"{out} is there already, and may hold labels. Choose another file with --out.")
    counted = table[[flag is not False for flag in flags(table, "coherent")]]
    drawn = [own.sample(min(arguments.n, len(own)), random_state=seed) for _, own in counted.groupby("model", sort=False)]
    if not drawn:
        raise ConfigError(f"{source} has no answer that was not found incoherent: there is nothing to label.")
    blind = pd.concat(drawn).sample(frac=1, random_state=np.random.RandomState(seed))[BLIND]
    write_text(out, blind.assign(shows_trait="").to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
    text = f"{len(blind)} answers in {out}. Fill the column 'shows_trait' with 0 and 1, then: personascope compare {source} --labels {out}"
    arguments.report({"table": str(out), "answers": len(blind)}, text)


def _answers(source: Path) -> pd.DataFrame:
    """A table with the columns question and answer."""
    table = judged_answers(source) if source.is_dir() else read_table(source)
    missing = [name for name in ("question", "answer") if name not in table]
    if missing:
        raise ConfigError(f"{source} lacks the columns {', '.join(missing)}. Give a table of questions and answers.")
    return table.assign(**{name: table[name].fillna("").astype(str) for name in ("question", "answer")})
