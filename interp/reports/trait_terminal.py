"""The check of a trait on a terminal."""

from __future__ import annotations

from dataclasses import asdict

from interp.reports.terminal import ALARM, agreement_table, plain_console
from interp.studies.traits import TraitCheck


def show_trait_check(result: TraitCheck) -> None:
    """What a trait is missing, how far its judges agree with its labels, how its pairs separate."""
    console = plain_console()
    for gap in result.gaps:
        console.print(f"missing: {gap.missing}", style=ALARM if gap.blocks else "")
        console.print(f"  {gap.costs}; {gap.remedy}.", style="dim")
    for title, rows in (("trait", result.judge), ("coherence", result.coherence)):
        if rows:
            console.print(agreement_table(f"judge of {title}: labels of", "labelled so", rows))
    if result.separation is not None:
        console.print(
            "{pairs} pairs in {model} at {hook_point}: AUROC {auroc:.2f} on questions left out, {paired:.0%} of pairs in order, "
            "cosine of halves {cosine_of_halves:.2f}".format(**asdict(result.separation))
        )
    console.print(result.verdict, style="bold")
