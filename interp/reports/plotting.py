"""The parts figures are made of: a chart with its narrow layout, axes, labels, whiskers."""

from __future__ import annotations

import html
import itertools
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.reports import numbers
from interp.reports.palette import LIGHT, SERIES

FONT = 'Inter, "Helvetica Neue", Helvetica, Arial, sans-serif'
SHARE_TICKS = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0", "25", "50", "75", "100"]}
ROWS = {"gridcolor": LIGHT["grid"], "griddash": "dot", "zeroline": False}
"""An axis whose places are rows: a dotted line through each."""
HOVER = "%{text}<extra></extra>"
SIGNS = (("circle", "●○"), ("square", "■□"), ("diamond", "◆◇"), ("triangle-up", "▲△"), ("triangle-down", "▼▽"), ("triangle-left", "◄◅"),
         ("triangle-right", "►▻"), ("star", "★☆"))  # fmt: skip
"""Symbols of figures, with the characters that look like them, full and hollow."""


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in words, and the layout changes for a narrow screen.

    It is drawn on light paper with the colours of `palette.LIGHT`; the page's script swaps these for `palette.DARK`. Nothing
    a model wrote goes into a figure.
    """

    figure: go.Figure
    label: str
    narrow: Mapping[str, Any] = field(default_factory=dict)
    zoom: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain data for the page's script."""
        plain = json.loads(self.figure.to_json(engine="json"))
        plain["layout"].pop("template", None)
        return {"data": plain["data"], "layout": plain["layout"], "narrow": dict(self.narrow), "zoom": self.zoom}


def blank(**layout: Any) -> go.Figure:
    """An empty figure in the page's type and colours."""
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "font": {"family": FONT, "size": 12, "color": LIGHT["ink"]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "hovermode": "closest",
            "dragmode": False,
            "hoverlabel": {"bgcolor": LIGHT["raised"], "bordercolor": LIGHT["rule"], "font": {"color": LIGHT["ink"]}},
            **layout,
        }
    )


def axis(title: str, **rest: Any) -> dict[str, Any]:
    """A quiet axis: hairline grid, muted labels."""
    return {
        "title": {"text": title, "font": {"color": LIGHT["muted"], "size": 12}, "standoff": 6},
        "tickfont": {"color": LIGHT["muted"]},
        "gridcolor": LIGHT["grid"],
        "zeroline": False,
        **rest,
    }


def note(text: str, x: float, y: float, anchor: str = "left", role: str = "ink", size: int = 12, **rest: Any) -> dict[str, Any]:
    """A label at a point, without an arrow; `role` is its colour."""
    return {
        "text": text,
        "x": x,
        "y": y,
        "xanchor": anchor,
        "yanchor": "middle",
        "align": anchor,
        "showarrow": False,
        "font": {"color": LIGHT[role], "size": size},
        **rest,
    }


def dot(symbol: str, role: str, size: float, outline: float = 0) -> dict[str, Any]:
    """A marker in one colour; hollow symbols need an `outline` in pixels."""
    return {"symbol": symbol, "size": size, "color": LIGHT[role], "line": {"width": outline, "color": LIGHT[role]}}


def sign(place: int) -> tuple[str, str, str]:
    """Palette role, symbol and character of the thing at this place among those compared; a second round of `SIGNS` is hollow."""
    symbol, characters = SIGNS[place % len(SIGNS)]
    hollow = place // len(SIGNS) % 2
    return SERIES[place % len(SERIES)], symbol + "-open" * hollow, characters[hollow]


def whiskers(values: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None], colour: str) -> dict[str, Any]:
    """Error bars from each value to its interval's ends."""

    def reach(ends: Sequence[float | None]) -> list[float]:
        return [0.0 if v is None or e is None else round(abs(e - v), 5) for v, e in zip(values, ends, strict=True)]

    return {
        "type": "data",
        "symmetric": False,
        "array": reach(high),
        "arrayminus": reach(low),
        "color": colour,
        "thickness": 1.8,
        "width": 0,
    }


def rounded(series: Iterable[Any], digits: int = 4) -> list[float | None]:
    """Values as JSON takes them; absent ones are None."""
    return [None if numbers.absent(value) else round(float(value), digits) for value in series]


def extent(*series: pd.Series) -> tuple[float, float]:
    """The range of all values, with some room."""
    values = pd.concat([part.astype(float) for part in series]).dropna()
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5
    return round(low - room, 5), round(high + room, 5)


def escaped(text: str) -> str:
    """Text as plotly shows it: it knows tags, but of quotation marks only themselves."""
    return html.escape(numbers.visible(text), quote=False)


def wrapped(text: str, width: int) -> str:
    """Escaped text in lines of at most `width` characters."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(text, width)) or "&nbsp;"


def spaced(notes: list[dict[str, Any]], gap: float) -> list[dict[str, Any]]:
    """Labels at one edge, moved up until `gap` of the axis lies between any two."""
    ordered = sorted(notes, key=lambda label: label["y"])
    for below, above in itertools.pairwise(ordered):
        above["y"] = max(above["y"], below["y"] + gap)
    return ordered
