"""A run with several seeds on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.reports.terminal import ALARM, interval, percent, plain_console, plain_table, print_blocks
from interp.studies.persona.seed_summary import verdict_counts


def show_seeds(summary: Mapping[str, Any], page: Path) -> None:
    """Rates as means over seeds with their spread, the verdict of each seed, and seeds that failed with the command that repeats them."""
    console = plain_console()
    table = plain_table("condition", summary["trait"]["shown"], "95 % interval", "between seeds", "coherent", "seeds")
    for row in summary["rates"].values():
        if row["role"] != "reference":
            spread = "–" if row["sd"] is None else f"± {100 * row['sd']:.0f}"
            table.add_row(row["title"], percent(row["rate"]), interval(row), spread, percent(row["coherence"]), str(row["seeds"]))
    print_blocks(table)
    console.print()
    for one in summary["seeds"]:
        console.print(f"Seed {one['seed']}: {one['verdict']}. {one['finding']}")
    console.print(f"\nVerdict: {verdict_counts(summary['verdicts'])}", style="bold")
    console.print(f"{summary['finding']} {what_varied(summary)}")
    for one in summary["failed"]:
        console.print(f"Seed {one['seed']} failed: {one['error']}", style=ALARM)
        console.print(f"Run it again: {one['command']}", soft_wrap=True)
    console.print(f"Report: {page}")


def what_varied(summary: Mapping[str, Any]) -> str:
    """What differs between the seeds, and what does not."""
    varied, given = f"Seeds vary the {' and the '.join(summary['varied'])}", " and the ".join(summary["given"])
    if not given:
        return f"{varied}."
    return f"{varied}; the {given} {'was given and stays' if len(summary['given']) == 1 else 'were given and stay'} the same."
