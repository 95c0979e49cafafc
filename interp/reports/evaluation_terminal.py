"""An evaluation, a comparison, or a judge's agreement with labels on a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.table import Table

from interp.reports.evaluation_views import SECTIONS, tells_more
from interp.reports.terminal import agreement_table, harmless, interval, percent, plain_console, plain_table, print_blocks, written
from interp.studies.evaluation import Evaluation


def show_evaluation(result: Evaluation, saved: str = "") -> None:
    """Rates by model, format and group, differences, measures, and how far the judge is to be trusted; then where all is `saved`."""
    console = plain_console()
    short = {model: harmless(name) for model, name in zip(result.rates["model"], result.rates["short"], strict=True)}
    judge, word = result.about["judge"], result.about["words"]["shown"]
    for by in SECTIONS:
        part = result.rates[result.rates["by"] == by]
        if by == "all" or tells_more(result.rates, by):
            print_blocks(_table(part, by, short, word))
    among = "" if judge["coherent_above"] is None else f" among answers with coherence above {judge['coherent_above']:g}"
    counted = f"\n{word.capitalize()}: trait score above {judge['shows_above']:g}{among}. Judge: {judge['spec']}; "
    console.print(counted + _agreement(result.rates), style="dim")
    for row in result.rates[(result.rates["by"] == "all") & (result.rates["gold_n"] > 0)].to_dict("records"):
        ends = interval({"rate": row["gold_rate"], "low": row["gold_low"], "high": row["gold_high"]})
        console.print(f"{short[row['model']]} by {row['gold_n']:.0f} hand labels: {percent(row['gold_rate'])} [{ends}]")
    for row in result.differences.to_dict("records"):
        pair = f"\n{short[row['model']]} minus {short[row['against']]}"
        if pd.isna(row["difference"]):
            console.print(f"{pair}: fewer than two questions were scored for both")
            continue
        gap, low, high = (f"{100 * row[name]:+.0f}" for name in ("difference", "low", "high"))
        console.print(f"{pair}: {gap} points [{low}, {high}], p = {row['p']:.2g}, paired by question")
    if len(result.measures):
        table = plain_table("model", "measure", "value", "95 % interval", "items", left=2)
        for row in result.measures.to_dict("records"):
            name = f"{row['measure']} ({row['unit']})" if row["unit"] else row["measure"]
            table.add_row(short[row["model"]], name, f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}", str(row["n"]))
        print_blocks(table)
    if saved:
        print_blocks(saved)


def _table(part: pd.DataFrame, by: str, short: dict[str, str], word: str) -> Table:
    """Rates of all models, or of each model by format or group."""
    whole = by == "all"
    table = plain_table("model" if whole else by, word, "95 %", "of", "unscored", "incoherent", "refused", *["AUROC"] * whole)
    table.columns[0].min_width, table.columns[0].overflow = 12, "fold"  # cut short, names would be alike
    for model, own in ((str(name), rows) for name, rows in part.groupby("model", sort=False)):
        if not whole:
            table.add_row(short[model], style="bold")
        for row in own.to_dict("records"):
            name = short[model] if whole else f"  {harmless(row['value'])}"
            counts = [str(row[column]) for column in ("n", "unscored", "incoherent", "refused")]
            auroc = "–" if pd.isna(row["agreement_auroc"]) else f"{row['agreement_auroc']:.3f}"
            table.add_row(name, percent(row["rate"]), interval(row), *counts, *[auroc] * whole)
    return table


def _agreement(rates: pd.DataFrame) -> str:
    """How far the judge agrees with hand labels, in words."""
    known = rates[rates["agreement_accuracy"].notna()].drop_duplicates("agreement_group")
    if known.empty:
        return "its agreement with hand labels of such answers is not known ('personascope judge agree' measures it)."
    columns = known[["agreement_group", "agreement_accuracy", "agreement_n"]]
    groups = (f"{group} {100 * accuracy:.0f} % of {n:.0f}" for group, accuracy, n in columns.to_numpy())
    return f"right on the trait's hand-labelled answers of these kinds: {', '.join(groups)}."


def show_agreement(found: dict[str, Any], word: str) -> None:
    """How far a judge agrees with hand labels; `word` is the trait's for answers that show it."""
    console = plain_console()
    console.print(agreement_table("answers of", word, found["groups"]))
    console.print(f"\nCalibration: mean score, and labelled share of {word} answers")
    bins = plain_table("scored between", "answers", "mean score", "labelled")
    for row in found["calibration"]:
        if row["n"]:
            bins.add_row(f"{row['from']:.0f}–{row['to']:.0f}", str(row["n"]), f"{row['judged']:.0f}", f"{row['labelled']:.0f} %")
    console.print(bins)
    for row in found["disagreements"][:5]:
        label = word if row["label"] else f"not {word}"
        console.print(f"\nlabelled {label}, score {row['score']:.0f}: ", style="dim", end="")
        console.print(written(row["answer"]))
