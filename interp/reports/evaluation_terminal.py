"""An evaluation, a comparison, or a judge's agreement with labels on a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.reports.terminal import interval, percent, plain_table, written
from interp.studies.evaluation import Evaluation


def show_evaluation(result: Evaluation) -> None:
    """Rates by model, format and group, differences, measures, and how far the judge is to be trusted."""
    console = Console()
    short = dict(zip(result.rates["model"], result.rates["short"], strict=True))
    for by, heading in (("all", "model"), ("format", "format"), ("group", "group")):
        part = result.rates[result.rates["by"] == by]
        if by == "all" or part["value"].nunique() > 1:
            console.print()
            console.print(_table(part, by, heading, short, result.about["words"]["shown"]))
    judge, word = result.about["judge"], result.about["words"]["shown"]
    among = "" if judge["coherent_above"] is None else f" among answers with coherence above {judge['coherent_above']:g}"
    counted = f"\n{word.capitalize()}: trait score above {judge['shows_above']:g}{among}. Judge: {judge['spec']}; "
    console.print(Text(counted, style="dim"), end="")
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


def _table(part: pd.DataFrame, by: str, heading: str, short: dict[str, str], word: str) -> Any:
    table = plain_table(heading, word, "95 %", "of", "unscored", "incoherent", "refused", *(["AUROC"] if by == "all" else []))
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
    return f"right on the trait's hand-labelled answers of these kinds: {', '.join(told)}."


def show_agreement(found: dict[str, Any], word: str) -> None:
    """How far a judge agrees with hand labels; `word` is the trait's for answers that show it."""
    console = Console()
    table = plain_table("answers of", "labelled", word, "not scored", "AUROC", "right", "kappa")
    for row in found["groups"]:
        counts = [str(row[name]) for name in ("n", "labelled", "unscored")]
        table.add_row(row["group"], *counts, _number(row["auroc"]), percent(row["accuracy"]), _number(row["kappa"], 2))
    console.print(table)
    console.print(Text(f"\nCalibration: mean score, and labelled share of {word} answers"))
    bins = plain_table("scored between", "answers", "mean score", "labelled")
    for row in found["calibration"]:
        if row["n"]:
            bins.add_row(f"{row['from']:.0f}–{row['to']:.0f}", str(row["n"]), f"{row['judged']:.0f}", f"{row['labelled']:.0f} %")
    console.print(bins)
    for row in found["disagreements"][:5]:
        label = word if row["label"] else f"not {word}"
        console.print(Text(f"\nlabelled {label}, score {row['score']:.0f}: ", style="dim"), written(row["answer"]))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
