"""Parts of what is printed on a terminal: rates with their intervals, checks, answers side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from interp.reports.numbers import REORDERING

ALARM = "red"
_CONTROL = re.compile(rf"[\x00-\x09\x0b-\x1f\x7f-\x9f]|{REORDERING.pattern}")


def plain_console() -> Console:
    """A console that prints text as it is: nothing in it is taken for markup, an emoji or a number to colour."""
    return Console(markup=False, emoji=False, highlight=False)


def print_blocks(*blocks: RenderableType) -> None:
    """Print texts and tables, each after an empty line."""
    console = plain_console()
    for block in blocks:
        console.print()
        console.print(block)


def percent(share: float | None) -> str:
    """A share as whole percent; a dash where nothing was measured."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.0f} %"


def interval(row: Mapping[Any, Any]) -> str:
    """The interval of a rate."""
    return "–" if pd.isna(row["rate"]) else f"{100 * row['low']:.0f}–{100 * row['high']:.0f} %"


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table without lines; the first `left` columns are words, the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right", no_wrap=place >= left)
    return table


def rates_table(rates: Sequence[Mapping[Any, Any]], word: str) -> Table:
    """Conditions with their rates, by their title where they have one; `word` is the trait's for answers that show it."""
    table = plain_table("condition", word, "95 % interval", "answers", "coherent")
    for row in rates:
        table.add_row(
            str(row.get("title", row["condition"])), percent(row["rate"]), interval(row), str(row["n"]), percent(row["coherence"])
        )
    return table


def agreement_table(heading: str, word: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """How far a judge agrees with hand labels, by group of answers; `word` is the trait's for answers that show it."""
    table = plain_table(heading, "labelled", word, "not scored", "AUROC", "right", "kappa")
    for row in rows:
        auroc, kappa = ("–" if row[name] is None else f"{row[name]:.{digits}f}" for name, digits in (("auroc", 3), ("kappa", 2)))
        table.add_row(row["group"], *(str(row[name]) for name in ("n", "labelled", "unscored")), auroc, percent(row["accuracy"]), kappa)
    return table


def side_by_side(console: Console, columns: Sequence[tuple[str, Sequence[Text]]]) -> None:
    """Texts in columns of equal width, or below each other on a narrow terminal."""
    if console.width < 30 * len(columns):
        for name, texts in columns:
            console.print(name, style="dim")
            console.print(*texts, sep="\n")
        return
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 3, 0, 0), header_style="dim")
    for name, _ in columns:
        table.add_column(Text(name), ratio=1)
    for row in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*row)
    console.print(table)


def harmless(words: str) -> str:
    """Text whose control characters, which would steer the terminal or reorder a line, became dots."""
    return _CONTROL.sub("·", words)


def written(words: str, style: str = "") -> Text:
    """What a model or a file says, harmless."""
    return Text(harmless(words) or "(empty)", style)
