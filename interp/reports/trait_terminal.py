"""The check of a trait on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from interp.reports.terminal import percent, plain_table
from interp.studies.traits import TraitCheck


def show_trait_check(result: TraitCheck) -> None:
    """What a trait is missing, how far its judges agree with its labels, how its pairs separate."""
    console = Console()
    for gap in result.gaps:
        console.print(Text(f"missing: {gap.missing}", style="red" if gap.blocks else ""))
        console.print(Text(f"  {gap.costs}; {gap.remedy}.", style="dim"))
    for title, rows in (("trait", result.judge), ("coherence", result.coherence)):
        if rows:
            show_trait_agreement(title, rows)
    if result.separation is not None:
        read = asdict(result.separation)
        console.print(
            Text(
                "{pairs} pairs in {model} at {hook_point}: AUROC {auroc:.2f} on questions left out, {paired:.0%} of pairs in order, "
                "cosine of halves {cosine_of_halves:.2f}".format(**read)
            )
        )
    console.print(Text(result.verdict, style="bold"))


def show_trait_agreement(judge: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """How far one judge of a trait agrees with labels, by group."""
    table = plain_table(f"judge of {judge}: labels of", "answers", "labelled so", "unscored", "AUROC", "right", "kappa")
    for row in rows:
        counts = [str(row[name]) for name in ("n", "labelled", "unscored")]
        decimals = ["–" if row[name] is None else f"{row[name]:.2f}" for name in ("auroc", "kappa")]
        table.add_row(row["group"], *counts, decimals[0], percent(row["accuracy"]), decimals[1])
    Console().print(table)
