"""The page's figures, each from a saved table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.reports import numbers
from interp.reports.conditions import Group, Row
from interp.reports.palette import LIGHT
from interp.reports.plotting import (
    HOVER,
    ROWS,
    SHARE_TICKS,
    Chart,
    axis,
    blank,
    dot,
    escaped,
    extent,
    note,
    rounded,
    spaced,
    whiskers,
    wrapped,
)
from interp.reports.views import DosePanel

LABELS = 290
"""Room for the conditions' titles left of the rates, in pixels."""
MANY = 20
"""Persona latents, from which on they are drawn small and without intervals."""
NAMED = 6
"""Persona latents that are named in the figure, the best ones."""
MARKS = {"baseline": ("circle", 9), "treatment": ("diamond", 11), "reference": ("square-open", 9), "control": ("diamond-open", 9)}
"""Symbol and size by a condition's role."""


def rates_chart(groups: Sequence[Group], word: str) -> Chart:
    """A dot and interval for each condition: share judged `word` (the trait's), then share coherent, then the count."""
    figure = blank(margin={"l": LABELS, "r": 0, "t": 42, "b": 8})
    wide, narrow, places = [], [], []
    depth = 0.0

    def label(text: str, x: float = 0, anchor: str = "left", **style: Any) -> dict[str, Any]:
        return note(text, x, -depth, anchor, xref="paper", **style)

    for group in groups:
        depth += 1
        heading = f"<b>{escaped(group.heading)}</b>"
        wide.append(label(heading, xshift=-LABELS, role="muted"))
        narrow.append(label(heading, xshift=-4, yshift=-8, role="muted"))
        for row in group.rows:
            depth += 1
            places.append(-depth)
            _add_condition(figure, row, -depth, word)
            counts = numbers.hits(row.rate, row.n)
            wide += [label(wrapped(row.title, 44), xshift=-LABELS, size=13), label(counts, 1, "right", size=13)]
            narrow.append(label(wrapped(f"{row.title} · {counts}", 54), xshift=-4, yshift=16))
        depth += 0.25
    for name in ("x", "x2"):  # an axis without a trace is not drawn, and there may be no rate at all
        figure.add_scatter(x=[None], y=[None], xaxis=name, yaxis="y", hoverinfo="skip")

    def head(text: str, x: float, anchor: str = "left") -> dict[str, Any]:
        shift = 6 if anchor == "left" else 0
        return note(text, x, 1, anchor, xref="paper", yref="paper", yshift=29, xshift=shift, role="muted")

    share = {"range": [-0.025, 1.025], "side": "top", "gridcolor": LIGHT["grid"], "zeroline": False, "anchor": "y"}
    figure.update_layout(
        height=round(56 + 27 * (depth + 0.4)),
        xaxis={**share, **SHARE_TICKS, "domain": [0, 0.59]},
        xaxis2={**share, "domain": [0.64, 0.86], "tickvals": [0, 0.5, 1], "ticktext": ["0", "50", "100"]},
        yaxis={**ROWS, "range": [-depth - 0.4, -0.4], "tickvals": places, "showticklabels": False},
        annotations=[*wide, head(f"judged {word}, %", 0), head("coherent, %", 0.64), head(f"{word} / scored", 1, "right")],
    )
    on_narrow = {
        "height": round(56 + 42 * (depth + 0.4)),
        "margin": {"l": 4, "r": 12, "t": 42, "b": 4},
        "xaxis": {"domain": [0, 0.6]},
        "xaxis2": {"domain": [0.66, 1]},
        "annotations": [*narrow, head(f"judged {word}, % · {word} / scored", 0), head("coherent, %", 0.66)],
    }
    shown = f"Share of answers judged {word} and share coherent, for each condition; the table below has the numbers."
    return Chart(figure, shown, on_narrow)


def dose_chart(panel: DosePanel, doses: tuple[float, float], word: str, marked: float | None = None) -> Chart:
    """Rate and coherence against dose for some directions, over thin lines of the panel's `reference` directions' rates.

    `doses` is the range that all panels share; `word` the trait's; `marked` a dose.
    """
    figure = blank(margin={"l": 34, "r": 10, "t": 8, "b": 38}, height=232)
    for name, table in panel.reference.items():
        _add_response(figure, name, table, "rate", word, "control", width=1, dash="dot")
    for name, table in panel.curves.items():
        x, low, high = (rounded(table[column]) for column in ("dose", "low", "high"))
        band = LIGHT["band_persona" if panel.role == "persona" else "band_control"]
        figure.add_scatter(
            x=x + x[::-1], y=high + low[::-1], fill="toself", fillcolor=band, line={"width": 0}, mode="lines", hoverinfo="skip"
        )
        ring, diamond = dot("circle-open", "ink", 5, 1), dot("diamond", panel.role, 7)
        _add_response(figure, name, table, "coherence", "coherent", "ink", width=1.2, dash="dash", mark=ring)
        _add_response(figure, name, table, "rate", word, panel.role, width=2, mark=diamond)
    room = 0.05 * (doses[1] - doses[0]) or 0.1
    ticks = sorted({dose for table in panel.curves.values() for dose in rounded(table["dose"]) if dose is not None})
    line = {"color": LIGHT["muted"], "width": 1, "dash": "dot"}
    vertical = {"type": "line", "yref": "paper", "x0": marked, "x1": marked, "y0": 0, "y1": 1, "layer": "below", "line": line}
    figure.update_layout(
        xaxis=axis("dose", range=[doses[0] - room, doses[1] + room], tickvals=ticks),
        yaxis=axis("", range=[-0.04, 1.04], **SHARE_TICKS),
        shapes=[] if marked is None else [vertical],
    )
    names = ", ".join(panel.curves)
    return Chart(figure, f"Share judged {word} and share coherent against dose for {names}; the table below has the numbers.")


def removal_chart(curve: pd.DataFrame, word: str) -> Chart:
    """Rate and coherence against the number of latents removed (columns size, rate, coherence)."""
    figure = blank(margin={"l": 44, "r": 12, "t": 8, "b": 44}, height=280)
    x = [int(size) for size in curve["size"]]
    for column, name, color, mark in (
        ("coherence", "coherent", "ink", dot("circle-open", "ink", 5, 1)),
        ("rate", word, "persona", dot("diamond", "persona", 8)),
    ):
        dash = {"color": LIGHT[color], "width": 2 if column == "rate" else 1.2, "dash": "solid" if column == "rate" else "dash"}
        figure.add_scatter(
            x=x,
            y=rounded(curve[column]),
            mode="lines+markers",
            line=dash,
            marker=mark,
            hovertemplate=f"%{{x}} latents<br>{name} %{{y:.0%}}<extra></extra>",
        )
    figure.update_layout(
        xaxis=axis("number of latents removed", type="log", tickvals=x, ticktext=[str(size) for size in x]),
        yaxis=axis("", range=[-0.04, 1.04], **SHARE_TICKS),
    )
    return Chart(figure, f"Share judged {word} and share coherent against the number of latents removed; the table below has the numbers.")


def latents_chart(latents: pd.DataFrame, chosen: Sequence[int]) -> Chart:
    """Every latent: its mean activation difference against the cosine of its decoder row with the persona vector."""
    figure = blank(margin={"l": 58, "r": 12, "t": 8, "b": 44}, height=400)
    picked = latents["latent"].isin(chosen)
    for table, mark, bars in (
        (latents[~picked], dot("circle", "cloud", 3.5), False),
        (latents[picked], dot("diamond", "persona", 10 if len(chosen) <= MANY else 5), len(chosen) <= MANY),
    ):
        difference, low, high = (rounded(table[column], 5) for column in ("mean_diff", "mean_diff_low", "mean_diff_high"))
        figure.add_scatter(
            x=rounded(table["cosine_persona"]),
            y=difference,
            mode="markers",
            marker=mark,
            text=[int(latent) for latent in table["latent"]],
            hovertemplate="latent %{text}<br>mean difference %{y}<br>cosine %{x}<extra></extra>",
            error_y=whiskers(difference, low, high, LIGHT["persona"]) if bars else None,
        )
    y_range = extent(latents["mean_diff"], latents.loc[picked, "mean_diff_low"], latents.loc[picked, "mean_diff_high"])
    x_range = extent(latents["cosine_persona"])
    zero = {"zeroline": True, "zerolinecolor": LIGHT["rule"]}
    figure.update_layout(
        xaxis=axis("cosine of decoder row with the persona vector", range=x_range, **zero),
        yaxis=axis("mean activation difference, tuned − base", range=y_range, **zero),
        annotations=_latent_labels(latents[latents["latent"].isin(chosen[:NAMED])], x_range, y_range, height=348),
    )
    label = f"Mean activation difference against cosine with the persona vector, {len(latents)} latents; tables list the leading ones."
    return Chart(figure, label, {"height": 340}, zoom=True)


def histogram_chart(histogram: Mapping[str, Any], latent: int) -> Chart:
    """Token counts by activation on a logarithmic axis, base and tuned as outlines; a bin without tokens lies on the floor."""
    figure = blank(margin={"l": 40, "r": 6, "t": 6, "b": 36}, height=190)
    edges = rounded(histogram["edges"], 5)
    top = max([1.0, *(float(value) for model in ("base", "tuned") for value in histogram[model])])
    for model, dash in (("base", "dot"), ("tuned", "solid")):
        figure.add_scatter(
            x=edges,
            y=[*(max(float(value), 0.5) for value in histogram[model]), 0.5],
            mode="lines",
            line={"shape": "hv", "color": LIGHT[model], "width": 1.8, "dash": dash},
            text=[*(numbers.count(value) for value in histogram[model]), "0"],
            hovertemplate=f"{model}: %{{text}} tokens from %{{x}}<extra></extra>",
        )
    decades = [10**power for power in range(12) if 10**power <= 2 * top]
    figure.update_layout(
        xaxis=axis("activation where the latent fires"),
        yaxis=axis("tokens", type="log", range=[math.log10(0.5), math.log10(top) + 0.15], tickvals=decades, tickformat="~s"),
    )
    return Chart(figure, f"Histogram of latent {latent}'s activation on base and tuned answers, logarithmic counts.")


def training_chart(metrics: pd.DataFrame) -> Chart:
    """Fraction of variance unexplained and share of dead latents over training."""
    figure = blank(margin={"l": 40, "r": 128, "t": 6, "b": 40}, height=190)
    notes = []
    highest = 0.0
    for column, name, role, dash in (("fvu", "FVU", "ink", "solid"), ("dead_share", "dead latents", "control", "dash")):
        values = rounded(metrics[column])
        hover = [f"step {numbers.count(s)}<br>{name} {numbers.number(v, 3)}" for s, v in zip(metrics["step"], values, strict=True)]
        _add_line(figure, metrics["step"], metrics[column], role, hover, width=1.6, dash=dash)
        known = [value for value in values if value is not None]
        if known:
            highest = max(highest, *known)
            notes.append(note(f"{name} {numbers.number(known[-1], 3)}", 1, known[-1], xref="paper", xshift=6))
    figure.update_layout(xaxis=axis("training step"), yaxis=axis("", rangemode="tozero"), annotations=spaced(notes, 0.12 * highest))
    return Chart(figure, "Dictionary training: fraction of variance unexplained and share of dead latents over steps.")


def _add_condition(figure: go.Figure, row: Row, y: float, word: str) -> None:
    model = "tuned" if row.model == "tuned" else "base"
    symbol, size = MARKS[row.role]
    if row.draws:
        figure.add_scatter(
            x=[draw.rate for draw in row.draws],
            y=[y] * len(row.draws),
            mode="markers",
            marker=dot("line-ns-open", model, 13, 1.4),
            text=[f"{escaped(draw.title)}<br>{draw.in_words(word)}" for draw in row.draws],
            hovertemplate=HOVER,
        )
    coherent = f"{numbers.percent(row.coherence)} {numbers.percent_interval(row.coherence_low, row.coherence_high)} coherent"
    for name, value, low, high, mark, words in (
        ("x", row.rate, row.low, row.high, dot(symbol, model, size, 1.6), row.in_words(word)),
        ("x2", row.coherence, row.coherence_low, row.coherence_high, dot("circle", "muted", 6), coherent),
    ):
        if value is not None:
            figure.add_scatter(
                x=[value],
                y=[y],
                xaxis=name,
                yaxis="y",
                mode="markers",
                marker=mark,
                text=[f"{escaped(row.title)}<br>{words}"],
                hovertemplate=HOVER,
                error_x=whiskers([value], [low], [high], mark["color"]),
            )


def _add_response(figure: go.Figure, name: str, table: pd.DataFrame, column: str, what: str, role: str, **style: Any) -> None:
    """The curve of one column of a direction's dose–response table; `style` is that of `_add_line`."""
    hover = []
    for row in table.to_dict("records"):
        text = f"{escaped(name)}<br>dose {numbers.number(row['dose'])} (norm {numbers.significant(row['absolute_norm'])})<br>"
        text += f"{what} {numbers.percent(row[column])}"
        if column == "rate":
            text += f" {numbers.percent_interval(row['low'], row['high'])}, {numbers.hits(row['rate'], row['n'])}"
        hover.append(text)
    _add_line(figure, table["dose"], table[column], role, hover, **style)


def _add_line(figure: go.Figure, x: Any, y: Any, role: str, hover: list[str], width: float, dash: str = "solid", mark: Any = None) -> None:
    line, mode = {"color": LIGHT[role], "width": width, "dash": dash}, "lines+markers" if mark else "lines"
    figure.add_scatter(x=rounded(x), y=rounded(y), mode=mode, line=line, marker=mark, text=hover, hovertemplate=HOVER)


def _latent_labels(table: pd.DataFrame, x_range: tuple[float, float], y_range: tuple[float, float], height: float) -> list[dict[str, Any]]:
    """A label beside each point, moved up where two would touch, and set left of points near the right edge."""
    notes: list[dict[str, Any]] = []
    pixels = height / (y_range[1] - y_range[0])
    last = {True: -math.inf, False: -math.inf}
    for row in table.sort_values(["mean_diff", "latent"]).to_dict("records"):
        x, y = float(row["cosine_persona"]), float(row["mean_diff"])
        left = x > x_range[0] + 0.8 * (x_range[1] - x_range[0])
        last[left] = max(y * pixels, last[left] + 15)
        place: dict[str, Any] = {"anchor": "right", "xshift": -9} if left else {"anchor": "left", "xshift": 9}
        notes.append(note(str(int(row["latent"])), x, y, role="persona", yshift=round(last[left] - y * pixels, 1), **place))
    return notes
