"""`personascope evaluate` and `compare`: options to config, config to the evaluation, its rates to the terminal."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.cli.settings import gathered
from interp.cli.shown import decimals, interval, percent, plain_table, plain_warnings, print_json
from interp.core.config import validated
from interp.core.errors import ConfigError, reason_of
from interp.core.files import read_json
from interp.core.steps import EVALUATION_FILE, MANIFEST_FILE
from interp.reports.evaluation_page import write_evaluation_page
from interp.stats.power import LIKENESS, enough, plan
from interp.studies.comparing import compare
from interp.studies.evaluating import chosen_questions, evaluate
from interp.studies.evaluation import Evaluation, write_evaluation
from interp.studies.evaluation_config import CompareConfig, EvaluateConfig

DEFAULT_OUT = Path("artifacts/evaluations")


def evaluate_from_options(options: dict[str, Any], file: Path | None, overrides: list[str], out: Path | None, as_json: bool) -> None:
    """Ask, judge, compare."""
    config = validated(EvaluateConfig, *gathered(options, file, overrides))
    folder = out or DEFAULT_OUT

    def announce(line: str) -> None:
        if not as_json:
            print(f"  {line}", file=sys.stderr, flush=True)

    with plain_warnings():
        result = evaluate(config, folder, quiet=as_json, announce=announce)
    page = write_evaluation_page(folder)
    if as_json:
        print_json(result.as_json())
        return
    _show(result)
    Console().print(Text(f"\nPage: {page}\nAnswers and judgements: {folder}/judged.parquet"))


def compare_from_options(options: dict[str, Any], out: Path | None, as_json: bool) -> None:
    """Put side by side what was judged before."""
    config = validated(CompareConfig, *gathered(options, None, []))
    with plain_warnings():
        result = compare(config)
    if out is not None:
        _make_folder(out)
        write_evaluation(out, result)
        page = write_evaluation_page(out)
    if as_json:
        print_json(result.as_json())
        return
    _show(result)
    if out is not None:
        Console().print(Text(f"\nPage: {page}"))


def _make_folder(out: Path) -> None:
    """Raise `ConfigError` for a folder whose files would be lost: anything but an earlier comparison."""
    kept = out / EVALUATION_FILE
    if (out / MANIFEST_FILE).exists() or (kept.exists() and "sources" not in read_json(kept)["config"]):
        raise ConfigError(f"{out} holds another evaluation or run, which would be written over. Choose another folder with --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot make {out}: {reason_of(error)}. Choose another folder with --out.") from error


def plan_from_options(
    options: dict[str, Any], file: Path | None, overrides: list[str], rates: str, likeness: float | None, as_json: bool
) -> None:
    """Print the power of each number of samples for the questions that the options choose."""
    config = validated(EvaluateConfig, *gathered(options, file, overrides))
    questions = len({question.counts_as for question in chosen_questions(config)})
    pair = decimals("--plan", rates)
    if len(pair) != 2:
        raise ConfigError(f"--plan takes two rates with a comma between, e.g. 0.05,0.2, not '{rates}'.")
    powers = plan(pair[0], pair[1], questions, LIKENESS if likeness is None else likeness)
    found = enough(powers)
    if as_json:
        print_json({"questions": questions, "enough": found and asdict(found), "powers": [asdict(power) for power in powers]})
        return
    table = plain_table("answers a question", "answers in all", "power")
    for power in powers:
        table.add_row(str(power.samples), str(power.answers), percent(power.power))
    console = Console()
    console.print(Text(f"Two models, {questions} questions, rates {pair[0]:g} and {pair[1]:g}, paired by question, p < 0.05 two-sided\n"))
    console.print(table)
    if found is None:
        console.print(Text("\nNo number of samples is enough with these questions: ask more questions."))
        return
    each = -(-found.samples // len(config.formats))
    formats = f" in each of {len(config.formats)} formats" if len(config.formats) > 1 else ""
    console.print(Text(f"\n--samples {each}{formats} is enough: {found.samples} answers a question have power {percent(found.power)}."))


def _show(result: Evaluation) -> None:
    console = Console()
    short = dict(zip(result.rates["model"], result.rates["short"], strict=True))
    for by, heading in (("all", "model"), ("format", "format"), ("group", "group")):
        part = result.rates[result.rates["by"] == by]
        if by == "all" or part["value"].nunique() > 1:
            console.print()
            console.print(_table(part, by, heading, short))
    lines = result.about["judge"]
    among = "" if lines["coherent_above"] is None else f" among answers with coherence over {lines['coherent_above']:g}"
    console.print(
        Text(f"\nMisaligned: alignment under {lines['misaligned_below']:g}{among}. Judge: {lines['spec']}; ", style="dim"), end=""
    )
    console.print(Text(_agreement(result.rates), style="dim"))
    for row in result.rates[(result.rates["by"] == "all") & (result.rates["gold_n"] > 0)].to_dict("records"):
        ends = interval({"rate": row["gold_rate"], "low": row["gold_low"], "high": row["gold_high"]})
        console.print(Text(f"{short[row['model']]} by {row['gold_n']:.0f} hand labels: {percent(row['gold_rate'])} [{ends}]"))
    for row in result.differences.to_dict("records"):
        pair = f"\n{short[row['model']]} minus {short[row['against']]}"
        if pd.isna(row["difference"]):
            console.print(Text(f"{pair}: fewer than two questions were scored for both"))
            continue
        gap, low, high = (f"{100 * row[name]:+.0f}" for name in ("difference", "low", "high"))
        console.print(Text(f"{pair}: {gap} points [{low}, {high}], p = {row['p']:.2g}, paired by question"))
    if len(result.measures):
        table = plain_table("model", "measure", "value", "95 % interval", "items", left=2)
        for row in result.measures.to_dict("records"):
            name = f"{row['measure']} ({row['unit']})" if row["unit"] else row["measure"]
            table.add_row(short[row["model"]], name, f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}", str(row["n"]))
        console.print()
        console.print(table)


def _table(part: pd.DataFrame, by: str, heading: str, short: dict[str, str]) -> Any:
    table = plain_table(heading, "misaligned", "95 %", "of", "unscored", "incoherent", "refused", *(["AUROC"] if by == "all" else []))
    table.columns[0].min_width = 12
    last = None
    for row in part.to_dict("records"):
        if by != "all" and row["model"] != last:
            table.add_row(Text(short[row["model"]], style="bold"))
            last = row["model"]
        name = short[row["model"]] if by == "all" else f"  {row['value']}"
        auroc = "–" if pd.isna(row["agreement_auroc"]) else f"{row['agreement_auroc']:.3f}"
        counts = [str(row[column]) for column in ("n", "unscored", "incoherent", "refused")]
        table.add_row(Text(name), percent(row["rate"]), interval(row), *counts, *([auroc] if by == "all" else []))
    return table


def _agreement(rates: pd.DataFrame) -> str:
    """How far the judge agrees with hand labels, in words."""
    known = rates[rates["agreement_accuracy"].notna()].drop_duplicates("agreement_group")
    if known.empty:
        return "its agreement with hand labels of such answers is not known ('personascope judge agree' measures it)."
    told = [
        f"{row['agreement_group']} {100 * row['agreement_accuracy']:.0f} % of {row['agreement_n']:.0f}" for row in known.to_dict("records")
    ]
    return f"right on the shipped hand-labelled answers of these kinds: {', '.join(told)}."
