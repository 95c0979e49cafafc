"""The page of a run with several seeds, from `seeds.json` and `seeds.parquet` alone, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from interp.causality.removals import Removal
from interp.core.errors import ArtifactError
from interp.core.files import read_json, write_text
from interp.reports import numbers
from interp.reports.page import REPORT_FILE
from interp.reports.palette import LIGHT
from interp.reports.plotting import HOVER, ROWS, SHARE_TICKS, Chart, blank, dot, escaped, note, rounded, whiskers, wrapped
from interp.reports.self_contained import render_page
from interp.studies.persona.seed_summary import verdict_counts
from interp.studies.persona.seeds import SEEDS_FILE, SEEDS_TABLE, seed_folder

LABELS = 290
COLOURS = {"baseline": "ink", "treatment": "persona", "control": "control", "reference": "control"}
AT_MOST_COLUMNS = 6
"""Seeds that have a column of their own in the table of rates."""


def write_seeds_page(folder: Path) -> Path:
    """Write `<folder>/report.html`; the same results give the same bytes.

    Raises `ArtifactError` when a file is missing, damaged, or of another version.
    """
    try:
        page = render_seeds(read_json(folder / SEEDS_FILE), pd.read_parquet(folder / SEEDS_TABLE))
    except (OSError, KeyError, jinja2.UndefinedError) as error:
        raise ArtifactError(f"{folder} lacks {error}: run the same command with --seeds again, finished steps are kept.") from error
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def render_seeds(summary: Mapping[str, Any], by_seed: pd.DataFrame) -> str:
    """The page as HTML."""
    summary = numbers.all_visible(dict(summary))
    word = summary["trait"]["shown"]
    rows = [
        {**rate, "condition": name, "single": by_seed[by_seed["condition"] == name].to_dict("records")}
        for name, rate in summary["rates"].items()
    ]
    shown = [row for row in rows if row["role"] != "reference"]
    seeds = [one["seed"] for one in summary["seeds"]]
    return render_page(
        "seeds.html.j2",
        {"rates": _rates_chart(shown, word)} if shown else {},
        summary=summary,
        word=word,
        headline=verdict_counts(summary["verdicts"]),
        seeds=seeds,
        rows=[{**row, "single": {one["seed"]: one for one in row["single"]}} for row in rows],
        columns=seeds if len(seeds) <= AT_MOST_COLUMNS else [],
        runs=[
            {
                **one,
                "removal": str(Removal(**one["removal"])) if one["removal"] else None,
                "page": f"{seed_folder(one['seed'])}/{REPORT_FILE}",
            }
            for one in summary["seeds"]
        ],
        directions=list(dict.fromkeys(name for pair in summary["agreement"] for name in pair["cosines"] or {})),
    )


def _rates_chart(rows: list[dict[str, Any]], word: str) -> Chart:
    """For each condition the mean over seeds with its interval, and below it a ring for each seed."""
    figure = blank(margin={"l": LABELS, "r": 12, "t": 42, "b": 8}, height=round(56 + 34 * (len(rows) + 0.4)))
    wide, narrow = [], []
    for place, row in enumerate(rows):
        role = COLOURS.get(row["role"], "control")
        x, low, high = ([rounded([row[name]])[0]] for name in ("rate", "low", "high"))
        text = f"mean over {row['seeds']} seeds: {numbers.percent(row['rate'])} {numbers.percent_interval(row['low'], row['high'])} {word}"
        mark, bars = dot("diamond", role, 10), whiskers(x, low, high, LIGHT[role])
        figure.add_scatter(x=x, y=[-place], mode="markers", marker=mark, error_x=bars, text=[escaped(text)], hovertemplate=HOVER)
        single = row["single"]
        said = [
            f"seed {one['seed']}: {numbers.percent(one['rate'])} {numbers.percent_interval(one['low'], one['high'])} {word}"
            for one in single
        ]
        figure.add_scatter(
            x=rounded(one["rate"] for one in single),
            y=[-place - 0.3] * len(single),
            mode="markers",
            marker=dot("circle-open", role, 6, 1.2),
            text=[escaped(line) for line in said],
            hovertemplate=HOVER,
        )
        wide.append(note(wrapped(row["title"], 44), 0, -place, xref="paper", xshift=-LABELS, size=13))
        narrow.append(note(wrapped(row["title"], 54), 0, -place, xref="paper", xshift=-4, yshift=16))
    head = note(f"judged {escaped(word)}, %", 0, 1, xref="paper", yref="paper", yshift=29, role="muted")
    figure.update_layout(
        xaxis={"range": [-0.025, 1.025], "side": "top", "gridcolor": LIGHT["grid"], "zeroline": False, **SHARE_TICKS},
        yaxis={**ROWS, "range": [-len(rows) + 0.4, 0.6], "tickvals": [-place for place in range(len(rows))], "showticklabels": False},
        annotations=[*wide, head],
    )
    on_narrow = {"height": round(56 + 52 * len(rows)), "margin": {"l": 4, "r": 12, "t": 42, "b": 4}, "annotations": [*narrow, head]}
    return Chart(
        figure, f"Share of answers judged {word} for each condition: mean over seeds, and each seed; the table below has it.", on_narrow
    )
