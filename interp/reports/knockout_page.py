"""The page of a knock-out: trait and task of every part of a fine-tune, alone and left out, from a step's saved files alone."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.causality.knockout import ALONE, BASE, LEFT_OUT, TUNED
from interp.core.files import write_text
from interp.reports import numbers
from interp.reports.palette import LIGHT
from interp.reports.plotting import HOVER, SHARE_TICKS, Chart, axis, blank, dot, note, rounded, whiskers
from interp.reports.self_contained import render_page
from interp.studies.knockout import KnockoutRecord

SIGNS = (("persona", "circle", "●"), ("plum", "square", "■"), ("ochre", "diamond", "◆"), ("sky", "triangle-up", "▲"), ("ink", "star", "★"),
         ("control", "triangle-down", "▼"))  # fmt: skip
"""Palette role, symbol and character of each kind of module, in their order."""
CELLS = {ALONE: "alone on the base", LEFT_OUT: "left out of the tuned model"}
TRAIT, JUDGED_TASK = ("rate", "low", "high"), ("task_rate", "task_low", "task_high")
READ_TASK = ("task_kept", "task_kept_low", "task_kept_high")
"""Columns of a value and both ends of its interval."""
SHOWN_ANSWERS = 3
PANEL = 250
"""Height of a panel, in pixels."""


def write_knockout_page(step: Path, folder: Path) -> Path:
    """Write the page of a step into `folder`, named like the step; the same results give the same bytes. Raises `ArtifactError`."""
    path = folder / f"{step.name}.html"
    write_text(path, render_knockout(KnockoutRecord.load(step)))
    return path


def render_knockout(record: KnockoutRecord) -> str:
    """The page as HTML."""
    cells, about = record.cells, numbers.all_visible(record.knockout)
    rows = {(row["cell"], row["part"]): row for row in cells.to_dict("records")}
    parts = list(dict.fromkeys(cells.loc[cells["part"] != "", "part"]))
    return render_page(
        "knockout.html.j2",
        {"parts": knockout_chart(cells, about["shown"])},
        about=about,
        word=about["shown"],
        references=[rows[BASE, ""], rows[TUNED, ""]],
        parts=[(part, rows[ALONE, part], rows[LEFT_OUT, part]) for part in parts],
        judged_task=bool(cells["task_rate"].notna().any()),
        read_task=bool(cells["task_kept"].notna().any()),
        signs={kind: SIGNS[place % len(SIGNS)] for place, kind in enumerate(_kinds(cells))},
        answers=_answers(record.answers, cells, about["shown"]),
    )


def knockout_chart(cells: pd.DataFrame, word: str) -> Chart:
    """Trait rate, and beside it the task where it is known, against the layers: parts alone above, left out below.

    A filled mark is a part whose effect on the trait is sure.
    """
    measures = [(TRAIT, f"{word}, %")]
    if cells["task_rate"].notna().any():
        measures.append((JUDGED_TASK, f"{word} in the training domain, %"))
    elif cells["task_kept"].notna().any():
        measures.append((READ_TASK, "task kept, %"))
    panels = [(cell, *measure) for cell in CELLS for measure in measures]
    tested = cells[cells["part"] != ""].assign(place=_places(cells))
    ticks = tested.drop_duplicates("place").sort_values("place")
    across = {"tickvals": rounded(ticks["place"]), "ticktext": [_label(row) for row in ticks.to_dict("records")], "showgrid": False}
    ends = [-0.6, float(ticks["place"].max()) + 0.6]
    figure, notes = blank(margin={"l": 34, "r": 8, "t": 34, "b": 34}, height=2 * PANEL + 90), []
    narrow: dict[str, Any] = {"height": len(panels) * (PANEL + 60)}
    for number, (cell, columns, title) in enumerate(panels):
        suffix = str(number + 1) if number else ""
        at = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        for model, dash in ((BASE, "dot"), (TUNED, "solid")):
            level = rounded(cells.loc[cells["cell"] == model, columns[0]]) * 2
            line = {"color": LIGHT[model], "width": 1.2, "dash": dash}
            figure.add_scatter(x=ends, y=level, mode="lines", line=line, hoverinfo="skip", **at)
        beside = tested.loc[tested["first"].notna(), "kind"].nunique()
        for place, kind in enumerate(_kinds(cells)):
            own = tested[(tested["cell"] == cell) & (tested["kind"] == kind)]
            _add_kind(figure, own, columns, word, place, 0.16 * (place - (beside - 1) / 2), at)
        row, column = divmod(number, len(measures))
        left, below = column * 0.53, 0.55 * (1 - row)
        figure.update_layout(_axes(suffix, (left, left + 0.47 if len(measures) > 1 else 1.0), (below, below + 0.45)))
        figure.update_layout({f"xaxis{suffix}": axis("", range=ends, anchor=f"y{suffix}", **across)})
        figure.update_layout({f"yaxis{suffix}": axis("", range=[-0.06, 1.06], anchor=f"x{suffix}", **SHARE_TICKS)})
        narrow |= _axes(suffix, (0.0, 1.0), (1 - (number + 0.78) / len(panels), 1 - (number + 0.1) / len(panels)))
        where = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "yshift": 16}
        notes.append(note(f"<b>{html.escape(cell)}</b> · {html.escape(title)}", 0, 1, "left", "muted", 12, **where))
    figure.update_layout(annotations=notes)
    label = f"Share of {word} answers with each part of the fine-tune alone, and left out; the table below has the numbers."
    return Chart(figure, label, narrow)


def _add_kind(
    figure: go.Figure, own: pd.DataFrame, columns: tuple[str, str, str], word: str, place: int, shift: float, at: dict[str, str]
) -> None:
    role, symbol, _ = SIGNS[place % len(SIGNS)]
    value, low, high = (rounded(own[column]) for column in columns)
    sure = own["surely"] & own["coherent_enough"]
    figure.add_scatter(
        x=rounded(own["place"] + shift * (own["first"].notna() | own["whole"])),  # what is in no block stands alone
        y=value,
        mode="markers",
        marker=dot(symbol, role, 8, 1.5) | {"symbol": [symbol + "-open" * (not one) for one in sure]},
        error_y=whiskers(value, low, high, LIGHT[role]),
        text=[_hover(row, word) for row in own.to_dict("records")],
        hovertemplate=HOVER,
        **at,
    )


def _hover(row: Mapping[Any, Any], word: str) -> str:
    lines = [
        f"{row['part']}, {row['cell']}",
        f"{numbers.percent(row['rate'])} {numbers.percent_interval(row['low'], row['high'])} {word}",
        f"{numbers.percent(row['coherence'])} coherent",
    ]
    if not numbers.absent(row["task_rate"]):
        lines.append(f"training domain {numbers.percent(row['task_rate'])} {numbers.percent_interval(row['task_low'], row['task_high'])}")
    if not numbers.absent(row["task_kept"]):
        ends = numbers.percent_interval(row["task_kept_low"], row["task_kept_high"])
        lines.append(f"task kept {numbers.percent(row['task_kept'])} {ends}")
    lines.append(f"{numbers.percent(row['share_of_change'])} of the squared change")
    return "<br>".join(html.escape(line) for line in lines)


def _axes(suffix: str, x: tuple[float, float], y: tuple[float, float]) -> dict[str, Any]:
    return {f"xaxis{suffix}": {"domain": [round(end, 4) for end in x]}, f"yaxis{suffix}": {"domain": [round(end, 4) for end in y]}}


def _kinds(cells: pd.DataFrame) -> list[str]:
    return [str(kind) for kind in cells["kind"].dropna().unique()]


def _places(cells: pd.DataFrame) -> pd.Series:
    """Where each part stands on the axis: groups of layers in order, then whole kinds, then what is in no block."""
    tested = cells[cells["part"] != ""]
    firsts = sorted(tested["first"].dropna().unique())
    outside = list(dict.fromkeys(tested.loc[tested["first"].isna() & ~tested["whole"], "kind"]))
    wholes = int(tested["whole"].any())

    def place(row: pd.Series) -> float:
        if pd.notna(row["first"]):
            return float(firsts.index(row["first"]))
        return float(len(firsts) if row["whole"] else len(firsts) + wholes + outside.index(row["kind"]))

    return tested.apply(place, axis=1)


def _label(row: Mapping[Any, Any]) -> str:
    if pd.notna(row["first"]):
        return str(row["first"]) if row["first"] == row["last"] else f"{row['first']}–{row['last']}"
    return "all" if row["whole"] else html.escape(str(row["kind"])).replace(" ", "<br>")


def _answers(answers: pd.DataFrame, cells: pd.DataFrame, word: str) -> list[tuple[str, list[dict[str, str]]]]:
    """A few answers of every cell that counts: both models, and the parts whose effect is sure."""
    shown = cells[(cells["part"] == "") | cells["surely"]]
    found = []
    for row in shown.to_dict("records"):
        own = answers[(answers["cell"] == row["cell"]) & (answers["part"] == row["part"]) & ~answers["task"]].head(SHOWN_ANSWERS)
        said = [
            {
                "question": numbers.visible(one["question"]),
                "text": numbers.visible(one["answer"]),
                "judged": f"{word if one['shows_trait'] is True else 'not ' + word}{'' if one['coherent'] is True else ', incoherent'}",
            }
            for one in own.to_dict("records")
        ]
        found.append((f"{row['part']}, {row['cell']}" if row["part"] else str(row["cell"]), said))
    return found
