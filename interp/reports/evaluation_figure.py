"""Trait rates of several models: a figure with a row for each model, or for each format or group with all models in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.reports import numbers
from interp.reports.numbers import absent
from interp.reports.palette import LIGHT
from interp.reports.plotting import HOVER, ROWS, Chart, axis, blank, dot, escaped, note, rounded, sign, whiskers, wrapped

By = Literal["all", "format", "group"]
BOUNDS = (0.08, 0.2, 0.4, 1.0)
"""Where the axis of rates may end; each is cut into four."""
LABELS = 290
"""Most room for labels left of the figure, in pixels."""


def rates_figure(rates: pd.DataFrame, by: By, word: str = "showing the trait") -> go.Figure:
    """Rates with their 95 % intervals; hover for denominators. A model has the same colour and symbol whatever `by`.

    `rates` is the table `rates` of an evaluation: all of its rows, of every `by`, so that the figures share one scale; `word` the trait's.
    Raises `ConfigError` where it has no row of this `by`.
    """
    figure, _ = _figure(rates, by, word)
    return figure.update_layout(paper_bgcolor=LIGHT["paper"])  # a notebook's own may be dark


def rates_chart(rates: pd.DataFrame, by: By, word: str) -> Chart:
    """The same for a page, which has a key of its own; on a narrow screen labels stand above their rows."""
    figure, narrow = _figure(rates, by, word)
    figure.update_layout(showlegend=False)
    which = {"all": "of each model", "format": "by model and answer format", "group": "by model and group of questions"}[by]
    return Chart(figure, f"Share of answers judged {word} {which}, with 95 % intervals; the table below has the numbers.", narrow)


def _figure(rates: pd.DataFrame, by: By, word: str) -> tuple[go.Figure, dict[str, Any]]:
    """The figure, and its changes for a narrow screen: labelled blocks of rows, a row for each model, one row's height between blocks."""
    part = rates[rates["by"] == by]
    if part.empty:
        raise ConfigError(f"The table has no rates by {by}, only by {', '.join(rates['by'].unique()) or 'nothing'}.")
    names = dict(zip(rates["model"], rates["short"], strict=True))
    alone = by == "all"
    rows = 1 if alone else len(names)
    tops = {str(label): -float(place * (rows + 1)) for place, label in enumerate(names.values() if alone else part["value"].unique())}
    figure = blank()
    uncounted = []
    for place, (model, name) in enumerate(names.items()):
        own = part[part["model"] == model]
        y = [tops[name] if alone else tops[str(value)] - place for value in own["value"]]
        _add_model(figure, own, y, name, place, word)
        uncounted += [note("no answer counted", 0, at, role="muted", size=11) for r, at in zip(own["rate"], y, strict=True) if absent(r)]
    figure.add_scatter(x=[None], y=[None], hoverinfo="skip", showlegend=False)  # an axis without a trace is not drawn
    end = _axis_end(rates)
    ticks = [end * quarter / 4 for quarter in range(5)]
    percents = [f"{100 * tick:g}" for tick in ticks]
    figure.update_layout(
        **_wide(tops, rows),
        xaxis=axis(f"judged {word}, %", side="top", range=[-0.025 * end, 1.025 * end], tickvals=ticks, ticktext=percents),
        annotations=uncounted,
        showlegend=not alone,
        legend={"orientation": "h", "x": 0, "y": 0, "yanchor": "top", "font": {"size": 12}},
    )
    return figure, _narrow(tops, rows, uncounted)


def _wide(tops: Mapping[str, float], rows: int) -> dict[str, Any]:
    """Labels left of their blocks; `tops` is the height of each block's first row."""
    labels = [wrapped(label, 40) for label in tops]
    lines = [label.split("<br>") for label in labels]
    unit = max(17.0 if rows == 1 else 15.0, (17 * max(map(len, lines)) + 8) / (rows + 1))
    bottom = min(tops.values()) - rows + 1
    return {
        "height": round(60 + unit * (1.7 - bottom)),
        "margin": {"l": min(LABELS, 18 + round(6.6 * max(len(line) for own in lines for line in own))), "r": 12, "t": 48, "b": 10},
        "yaxis": {
            **ROWS,
            "range": [bottom - 0.8, 0.9],
            "tickvals": [top - (rows - 1) / 2 for top in tops.values()],
            "ticktext": labels,
            "tickfont": {"size": 13, "color": LIGHT["ink"]},
            "showgrid": rows == 1,
        },
        "shapes": _rules(tops, rows, above=1.0),
    }


def _narrow(tops: Mapping[str, float], rows: int, uncounted: list[dict[str, Any]]) -> dict[str, Any]:
    """Labels above their blocks."""
    labels = [note(wrapped(name, 48), 0, top, xref="paper", xshift=-4, yshift=8, yanchor="bottom") for name, top in tops.items()]
    unit = max(16.0, 15.0 * max(label["text"].count("<br>") + 1 for label in labels) + 6)
    bottom = min(tops.values()) - rows + 1
    return {
        "height": round(60 + unit * (2.4 - bottom)),
        "margin": {"l": 4, "r": 12, "t": 48, "b": 4},
        "yaxis": {"showticklabels": False, "range": [bottom - 0.8, 1.6]},
        "annotations": [*labels, *uncounted],
        "shapes": _rules(tops, rows, above=1.5),
    }


def _rules(tops: Mapping[str, float], rows: int, above: float) -> list[dict[str, Any]]:
    """Lines between blocks of several rows."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "layer": "below", "line": {"color": LIGHT["rule"], "width": 1}}
    return [{**line, "y0": top + above, "y1": top + above} for top in list(tops.values())[1:] if rows > 1]


def _add_model(figure: go.Figure, own: pd.DataFrame, y: Sequence[float], name: str, place: int, word: str) -> None:
    role, symbol, _ = sign(place)
    x, low, high = (rounded(own[column], 5) for column in ("rate", "low", "high"))
    hover = []
    for row in own.to_dict("records"):
        title = wrapped(name if row["by"] == "all" else f"{name} · {row['value']}", 60)
        rate = f"{numbers.percent(row['rate'], digits=1)} {numbers.percent_interval(row['low'], row['high'], 1)} {word}"
        n, unscored, incoherent = (numbers.count(row[column]) for column in ("n", "unscored", "incoherent"))
        hover.append(f"{title}<br>{rate}<br>n {n} · not scored {unscored} · incoherent {incoherent}")
    mark, bars = dot(symbol, role, 10, 1.2), whiskers(x, low, high, LIGHT[role])
    figure.add_scatter(x=x, y=list(y), mode="markers", name=escaped(name), marker=mark, error_x=bars, text=hover, hovertemplate=HOVER)


def _axis_end(rates: pd.DataFrame) -> float:
    """The lowest of `BOUNDS` over all intervals of rates that there are."""
    high = rates.loc[rates["rate"].notna(), ["rate", "high"]].astype(float).max().max()
    return 1.0 if math.isnan(high) else next((bound for bound in BOUNDS if high <= bound), 1.0)
