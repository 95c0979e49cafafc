"""`personascope demo`, `run`, `diff` and `report`: the main job, whole or up to its diff, in a few lines on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.cli.arguments import DiffArguments, ReportArguments, StudyArguments, print_json
from interp.core.errors import ConfigError
from interp.core.formatting import plain_records
from interp.core.steps import RunDirectory
from interp.diffing.candidates import candidates
from interp.diffing.rankings import metrics_of
from interp.reports.page import write_report
from interp.reports.terminal import plain_table, rates_table
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study

SHORT = {"attribution": "attr.", "cosine_mean_difference": "mean", "mean_diff": "diff", "relative_norm": "norm", "cosine": "cos"}
"""Headings of metrics whose names are long."""


def run_pair(config: StudyConfig, arguments: StudyArguments) -> None:
    """Run the study on a pair of the user's own."""
    check_pair_is_given(config)
    run(config, arguments)


def run(config: StudyConfig, arguments: StudyArguments) -> None:
    """Run the study and write its report."""
    folder = arguments.folder(config.name)
    arguments.announce(f"{config.name}: {config.base} and {config.tuned or 'an organism made of it'} in {folder}")
    result = run_study(config, folder, quiet=arguments.as_json, announce=arguments.announce)
    page = write_report(result.run)
    if arguments.as_json:
        print_json(result.summary)
    else:
        _print_summary(result.summary, page)


def diff(config: StudyConfig, arguments: DiffArguments) -> None:
    """Run the study up to its diff."""
    check_pair_is_given(config)
    folder = arguments.folder(config.name)
    arguments.announce(f"{config.name}: {config.base} and {config.tuned} in {folder}")
    result = run_study(config, folder, quiet=arguments.as_json, announce=arguments.announce, until="diff")
    path = result.steps["diff"].path("latents.parquet")
    table = pd.read_parquet(path)
    suspects = candidates(table, config.diff.candidates_per_metric, config.diff.largest_q, most=arguments.top)
    metrics = metrics_of(table)
    if arguments.as_json:
        print_json({
            "verb": "diff",
            "run": str(folder),
            "table": str(path),
            "n_latents": len(table),
            "largest_q": config.diff.largest_q,
            "suspects": plain_records(suspects),
        })  # fmt: skip
        return
    _show_diff(table, suspects, list(metrics), config.diff.largest_q)
    console = Console()
    console.print(Text(f"All latents and columns: {path}"))
    console.print(Text(f"Try one out:             personascope steer {folder} --latent N --dose 0.5"))
    console.print(Text("The whole job from here: the same options with 'personascope run'"))


def report(arguments: ReportArguments) -> None:
    """Write the report."""
    page = write_report(RunDirectory(arguments.folder))
    if arguments.as_json:
        print_json({"report": str(page)})
    else:
        print(page)


def check_pair_is_given(config: StudyConfig) -> None:
    """Raise `ConfigError` where there is no tuned model."""
    if config.tuned is None:
        raise ConfigError("No tuned model is given. Add --tuned HUB_ID_OR_FOLDER_OR_ADAPTER, or use 'personascope demo'.")


def _print_summary(summary: dict[str, Any], page: Path) -> None:
    console = Console()
    console.print()
    console.print(
        rates_table(
            [{"condition": name, **rate} for name, rate in summary["rates"].items() if rate["role"] != "reference"],
            summary["trait"]["shown"],
        )
    )
    console.print()
    console.print(Text(f"Verdict: {summary['verdict']}", style="bold"))
    console.print(Text(summary["finding"]))
    minutes, seconds = divmod(round(summary["duration_s"]), 60)
    console.print(
        Text(f"All steps together took {minutes} min {seconds} s, at most {summary['peak_memory_bytes'] / 2**30:.1f} GiB of memory.")
    )
    console.print(Text(f"Report: {page}"))


def _show_diff(table: pd.DataFrame, suspects: pd.DataFrame, metrics: list[str], largest_q: float) -> None:
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
