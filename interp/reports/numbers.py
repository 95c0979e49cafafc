"""Numbers and text as the page prints them: shares with intervals, durations, sizes, and model text made visible."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

ABSENT = "–"
"""What the page prints where there is no number."""


def absent(value: Any) -> bool:
    """True for None, NaN and pandas' NA."""
    return value is None or bool(pd.isna(value))


def percent(share: Any, unit: bool = True, digits: int = 0) -> str:
    """A share of 0 to 1 in percent with `digits` decimals; one more where rounding would hide that it is not exactly 0 % or 100 %."""
    if absent(share):
        return ABSENT
    value = round(100 * float(share), 6)  # an interval's end may miss 0 by a rounding error
    half = 0.5 / 10**digits
    text = f"{value:.{digits + (0 < value < half or 100 - half < value < 100)}f}"
    text = text.replace("-", "−" if float(text) else "")
    return f"{text}\u202f%" if unit else text


def percent_interval(low: Any, high: Any, digits: int = 0) -> str:
    """`[84, 97]`, in percent."""
    return "" if absent(low) or absent(high) else f"[{percent(low, False, digits)}, {percent(high, False, digits)}]"


def points(difference: Any, unit: bool = True, digits: int = 0) -> str:
    """A difference of two shares in percentage points, signed."""
    if absent(difference):
        return ABSENT
    return f"{100 * float(difference):+.{digits}f}".replace("-", "−") + (" points" if unit else "")


def number(value: Any, digits: int = 2, signed: bool = False) -> str:
    """A plain number with a true minus sign."""
    if absent(value):
        return ABSENT
    text = f"{float(value):{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−") if float(text) != 0 else f"{0:.{digits}f}"


def significant(value: Any, digits: int = 3, signed: bool = False) -> str:
    """A number with `digits` significant digits, for values of unknown scale."""
    if absent(value):
        return ABSENT
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-", "−")
    magnitude = math.floor(math.log10(abs(value)))
    if -4 <= magnitude < 6:
        text = f"{value:{'+' if signed else ''}.{max(0, digits - 1 - magnitude)}f}"
    else:
        return _powers(value, digits, signed)
    return text.replace("-", "−")


def decimals(values: Iterable[Any], digits: int = 4) -> int:
    """Decimals for a column of numbers: the largest gets `digits` significant digits, and the others as many decimals."""
    largest = max((abs(float(value)) for value in values if not absent(value)), default=0.0) or 1.0
    return min(6, max(0, digits - 1 - math.floor(math.log10(largest))))


def probability(p: Any) -> str:
    """`p = 0.0300`; below a ten-thousandth in powers of ten."""
    if absent(p):
        return f"p = {ABSENT}"
    p = float(p)
    return "p = " + (f"{p:.4f}" if p >= 1e-4 or p == 0 else _powers(p, 2, False))


def _powers(value: float, digits: int, signed: bool) -> str:
    mantissa, exponent = f"{value:{'+' if signed else ''}.{digits - 1}e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10{raised}".replace("-", "−")


def count(value: Any) -> str:
    """An integer with thin spaces between thousands."""
    return ABSENT if absent(value) else f"{int(value):,}".replace(",", "\u202f")


def hits(rate: Any, n: Any) -> str:
    """`45/48`: the count behind a rate."""
    if absent(n):
        return ABSENT
    return f"{ABSENT}/{int(n)}" if absent(rate) else f"{round(float(rate) * int(n))}/{int(n)}"


def duration(seconds: Any) -> str:
    """`9 min 12 s`."""
    if absent(seconds):
        return ABSENT
    seconds = float(seconds)
    if seconds < 60:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u202fh {minutes:02d}\u202fmin" if hours else f"{minutes}\u202fmin {rest:02d}\u202fs"


def size(size_bytes: Any) -> str:
    """Bytes as MiB or GiB."""
    if absent(size_bytes):
        return ABSENT
    mebibytes = float(size_bytes) / 2**20
    return f"{mebibytes / 1024:.2f}\u202fGiB" if mebibytes >= 1024 else f"{mebibytes:.0f}\u202fMiB"


REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of what follows them, of their neighbours' text too."""


def visible(text: Any) -> str:
    """Text without what a page cannot show: control characters become their pictures, lone surrogates a question mark.

    What would reorder the text around it becomes U+FFFD.
    """
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in str(text))
    return REORDERING.sub("\ufffd", shown).encode("utf-8", "replace").decode("utf-8")


def all_visible(value: Any) -> Any:
    """JSON whose texts, names of fields too, are `visible`."""
    if isinstance(value, dict):
        return {visible(name): all_visible(own) for name, own in value.items()}
    return [all_visible(own) for own in value] if isinstance(value, list) else visible(value) if isinstance(value, str) else value


def token(text: Any) -> str:
    """One token on one line: a line break shows as ⏎, a tab as ⇥."""
    return visible(str(text).replace("\r\n", "\n").replace("\n", "⏎").replace("\t", "⇥"))
