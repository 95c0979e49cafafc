"""`personascope diff`: the main job up to its diff, and the leading latents on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.cli.run import RUNS, study_config
from interp.cli.shown import plain_table, plain_warnings, print_json
from interp.core.formatting import plain_records
from interp.diffing.rankings import candidates, metrics_of
from interp.studies.persona.study import run_study

SHORT = {"attribution": "attr.", "cosine_mean_difference": "mean", "mean_diff": "diff", "relative_norm": "norm", "cosine": "cos"}
"""Headings of metrics whose names are long."""


def diff_from_options(options: dict[str, Any], file: Path | None, overrides: list[str], out: Path | None, top: int, as_json: bool) -> None:
    """Run the study up to its diff."""
    config = study_config(options, file, overrides, wants_pair=True)
    folder = out or RUNS / config.name

    def announce(line: str) -> None:
        if not as_json:
            print(f"  {line}", file=sys.stderr, flush=True)

    announce(f"{config.name}: {config.base} and {config.tuned} in {folder}")
    with plain_warnings():
        result = run_study(config, folder, quiet=as_json, announce=announce, until="diff")
    path = result.steps["diff"].path("latents.parquet")
    table = pd.read_parquet(path)
    suspects = candidates(table, config.diff.candidates_per_metric, config.diff.largest_q, most=top)
    metrics = metrics_of(table)
    if as_json:
        print_json({
            "verb": "diff",
            "run": str(folder),
            "table": str(path),
            "n_latents": len(table),
            "largest_q": config.diff.largest_q,
            "suspects": plain_records(suspects),
        })  # fmt: skip
        return
    _show(table, suspects, list(metrics), config.diff.largest_q)
    console = Console()
    console.print(Text(f"All latents and columns: {path}"))
    console.print(Text(f"Try one out:             personascope steer {folder} --latent N --dose 0.5"))
    console.print(Text("The whole job from here: the same options with 'personascope run'"))


def _show(table: pd.DataFrame, suspects: pd.DataFrame, metrics: list[str], largest_q: float) -> None:
    console = Console()
    console.print()
    risen = int(((table["q_value"] <= largest_q) & (table["mean_diff"] > 0)).sum())
    console.print(Text(f"{risen} of {len(table)} latents rose surely (q ≤ {largest_q:g})."))
    if suspects.empty:
        return
    shown = plain_table("latent", "mean_diff [95 %]", "q", "fires: base", "tuned", *(SHORT.get(name, name) for name in metrics), left=0)
    for row in suspects.sort_values("mean_diff", ascending=False).to_dict("records"):
        mean_diff = f"{row['mean_diff']:.2f} [{row['mean_diff_low']:.2f}–{row['mean_diff_high']:.2f}]"
        fires = [f"{100 * row[f'rate_{model}']:.1f} %" for model in ("base", "tuned")]
        shown.add_row(str(row["latent"]), mean_diff, f"{row['q_value']:.1g}", *fires, *(str(row[f"rank_{name}"]) for name in metrics))
    console.print(Text("Candidates, with their rank by every metric:"))
    console.print(shown)
    console.print()
