"""`personascope demo` and `run`: options to config, config to study, study to a few lines on the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from interp.cli.settings import gathered
from interp.cli.shown import plain_warnings, rates_table
from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.studies.persona.config import StudyConfig

RUNS = Path("artifacts/runs")


def study_config(options: dict[str, Any], file: Path | None, overrides: list[str], wants_pair: bool) -> StudyConfig:
    """File, then options, then --set, later ones winning. Raises `ConfigError` naming the bad field."""
    config = validated(StudyConfig, *gathered(options, file, overrides))
    if wants_pair and config.tuned is None:
        raise ConfigError("No tuned model is given. Add --tuned HUB_ID_OR_FOLDER_OR_ADAPTER, or use 'personascope demo'.")
    return config


def run_from_options(
    options: dict[str, Any], file: Path | None, overrides: list[str], out: Path | None, as_json: bool, wants_pair: bool = False
) -> None:
    """Run the study and write its report."""
    config = study_config(options, file, overrides, wants_pair)
    folder = out or RUNS / config.name

    from interp.reports.page import write_report
    from interp.studies.persona.study import run_study

    def announce(line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)

    announce(f"{config.name}: {config.base} and {config.tuned or 'an organism made of it'} in {folder}")
    with plain_warnings():
        result = run_study(config, folder, quiet=as_json, announce=(lambda line: None) if as_json else announce)
    page = write_report(result.run)
    if as_json:
        print(json.dumps(result.summary, indent=2, ensure_ascii=False))
    else:
        _print_summary(result.summary, page)


def _print_summary(summary: dict[str, Any], page: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print()
    console.print(rates_table([{"condition": name, **rate} for name, rate in summary["rates"].items() if rate["role"] != "reference"]))
    console.print()
    console.print(Text(f"Verdict: {summary['verdict']}", style="bold"))
    console.print(Text(summary["finding"]))
    minutes, seconds = divmod(round(summary["duration_s"]), 60)
    console.print(
        Text(f"All steps together took {minutes} min {seconds} s, at most {summary['peak_memory_bytes'] / 2**30:.1f} GiB of memory.")
    )
    console.print(Text(f"Report: {page}"))
