"""What several commands print: rates with their intervals, checks, answers side by side."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.core.errors import ConfigError, EditWarning

HOME, OURS = Path(__file__).parents[2], ("interp", "sae_training")
HOSTILE = "red"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def print_json(value: Mapping[Any, Any]) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Our own warnings as one line on standard error, each once; those of others as they are."""
    said: set[str] = set()
    others = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
    ) -> None:
        if not (category.__module__.startswith(OURS) or any(Path(filename).is_relative_to(HOME / room) for room in OURS)):
            others(message, category, filename, lineno, file, line)
        elif str(message) not in said:
            said.add(str(message))
            print(f"personascope: note: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries mean to change is nothing to the user
        for ours in OURS:
            warnings.filterwarnings("always", module=ours)
        warnings.filterwarnings("always", category=EditWarning)
        warnings.showwarning = show
        yield


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given at all, lists of numbers read."""
    values = {name: value for name, value in options.items() if value is not None and value != []}
    readers: dict[str, Callable[[str], Any]] = {
        "latents": partial(whole_numbers, "--latents"),
        "doses": partial(decimals, "--doses"),
        "layers": layer_window,
    }
    return values | {name: read(values[name]) for name, read in readers.items() if name in values}


def whole_numbers(option: str, text: str) -> list[int]:
    """`1,2,3` as numbers; raises `ConfigError` naming the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers with commas between, e.g. 2076,3253, not '{text}'.") from error


def decimals(option: str, text: str) -> list[float]:
    """`0.3,0.4` as numbers; raises `ConfigError` naming the option."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers with commas between, e.g. 0.3,0.4, not '{text}'.") from error


def layer_window(text: str) -> tuple[int, int]:
    """`8-22` or `15` as first and last layer; raises `ConfigError`."""
    first, dash, last = text.partition("-")
    try:
        return int(first), int(last if dash else first)
    except ValueError as error:
        raise ConfigError(f"--layers takes FIRST-LAST, e.g. 8-22, not '{text}'.") from error


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


def rates_table(rates: Sequence[Mapping[Any, Any]]) -> Table:
    """Conditions with their rates."""
    table = plain_table("condition", "hostile", "95 % interval", "answers", "coherent")
    for row in rates:
        name = str(row["condition"]).replace("_", " ")
        table.add_row(name, percent(row["rate"]), interval(row), str(row["n"]), percent(row["coherence"]))
    return table


def print_checks(console: Console, checks: Sequence[Mapping[Any, Any]]) -> None:
    """Every rule with its numbers."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for check in checks:
        mark = Text("holds", style="green") if check["holds"] else Text("fails", style=HOSTILE)
        table.add_row(mark, Text(str(check["statement"])))
    console.print(table)


def side_by_side(console: Console, columns: Sequence[tuple[str, Sequence[Text]]]) -> None:
    """Texts in columns of equal width, or below each other on a narrow terminal."""
    if console.width < 30 * len(columns):
        for name, texts in columns:
            console.print(Text(name, style="dim"))
            for text in texts:
                console.print(text)
        return
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 3, 0, 0), header_style="dim")
    for name, _ in columns:
        table.add_column(Text(name), ratio=1)
    for row in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*row)
    console.print(table)


def written(words: str, style: str = "") -> Text:
    """What a model or a file says; control characters, which would steer the terminal, become dots."""
    return Text(_CONTROL.sub("·", words) or "(empty)", style)


def judged(answer: Mapping[Any, Any]) -> Text:
    """An answer with what the judges think of it."""
    text = written(str(answer["answer"]))
    hostility = "not scored" if pd.isna(answer["p_hostile"]) else f"hostile {answer['p_hostile']:.2f}"
    words = hostility if answer["coherent"] is True or pd.isna(answer["coherent"]) else f"{hostility}, incoherent"
    return text.append(f"\n{words}", style=HOSTILE if answer["hostile"] is True else "dim")
