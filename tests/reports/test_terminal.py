"""What is printed on a terminal, read back from a console of text."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from interp.reports.terminal import rates_table

RATE = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 12, "coherence": 1.0}


def test_conditions_are_named_by_their_title_or_by_their_name_as_it_is() -> None:
    console = Console(file=StringIO(), width=120)
    rows = [RATE | {"condition": "my_own_ablation", "title": "Tuned, my_own latents removed"}, RATE | {"condition": "steered"}]
    console.print(rates_table(rows, "French"))
    _, first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.split("  ")[0] == "Tuned, my_own latents removed"
    assert second.split() == ["steered", "50", "%", "40–60", "%", "12", "100", "%"]
