"""`personascope evaluate`: options to config, config to the evaluation, its rates to the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.cli.settings import gathered
from interp.cli.shown import interval, percent, plain_table, plain_warnings, print_json
from interp.config import validated
from interp.studies.evaluating import EvaluateConfig, Evaluation, evaluate

DEFAULT_OUT = Path("artifacts/evaluations")


def evaluate_from_options(options: dict[str, Any], file: Path | None, overrides: list[str], out: Path | None, as_json: bool) -> None:
    """Ask, judge, compare."""
    config = validated(EvaluateConfig, *gathered(options, file, overrides))

    def announce(line: str) -> None:
        if not as_json:
            print(f"  {line}", file=sys.stderr, flush=True)

    with plain_warnings():
        result = evaluate(config, out or DEFAULT_OUT, quiet=as_json, announce=announce)
    if as_json:
        print_json(result.as_json())
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    console = Console()
    short = _short(list(result.rates["model"].unique()))
    for by, heading in (("all", "model"), ("format", "format"), ("group", "group")):
        part = result.rates[result.rates["by"] == by]
        if by != "all" and part["value"].nunique() < 2:
            continue
        table = plain_table(heading, "hostile", "95 % interval", "answers", "not scored", "coherent")
        last = None
        for row in part.to_dict("records"):
            if by != "all" and row["model"] != last:
                table.add_row(Text(short[row["model"]], style="bold"))
                last = row["model"]
            name = short[row["model"]] if by == "all" else f"  {row['value']}"
            table.add_row(Text(name), percent(row["rate"]), interval(row), str(row["n"]), str(row["unscored"]), percent(row["coherence"]))
        console.print()
        console.print(table)
    for row in result.differences.to_dict("records"):
        pair = f"\n{short[row['model']]} minus {short[row['against']]}"
        if pd.isna(row["difference"]):
            console.print(Text(f"{pair}: fewer than two questions were scored for both"))
            continue
        gap, low, high = (f"{100 * row[name]:+.0f}" for name in ("difference", "low", "high"))
        console.print(Text(f"{pair}: {gap} points [{low}, {high}], p = {row['p']:.2g}, paired by question"))
    console.print(Text(f"\nSaved in {', '.join(str(step.folder) for step in result.steps)}"))


def _short(models: list[str]) -> dict[str, str]:
    """The last part of each model's path, where that tells them apart."""
    last = {model: model.rstrip("/").rsplit("/", 1)[-1] for model in models}
    return last if len(set(last.values())) == len(models) else {model: model for model in models}
