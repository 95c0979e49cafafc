"""Progress of long steps: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 15.0  # between lines when the output is no terminal


@contextmanager
def progress(label: str, total: int, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yields `advance(n, note)`. Writes to standard error, so that standard output stays clean for scripts."""
    if sys.stderr.isatty() and not quiet:
        yield from _bar(label, total)
    else:
        yield from _lines(label, total, float("inf") if quiet else QUIET_SECONDS)


def _bar(label: str, total: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("  {task.description:<34}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[note]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(n: int, note: str = "") -> None:
            bar.update(task, advance=n, note=note)

        yield advance


def _lines(label: str, total: int, interval: float) -> Iterator[Callable[..., None]]:
    done, shown = 0, time.monotonic()

    def advance(n: int, note: str = "") -> None:
        nonlocal done, shown
        done += n
        if time.monotonic() - shown >= interval:
            shown = time.monotonic()
            print(f"  {label}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

    yield advance
