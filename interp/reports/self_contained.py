"""One HTML file with everything it needs inside it: style, scripts of known hash, figures in the reader's colour scheme."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from interp.reports import numbers
from interp.reports.palette import DARK, LIGHT, css_variables
from interp.reports.plotting import Chart

_HERE = Path(__file__).parent


@cache
def plotly_js() -> str:
    """plotly.js with its basic traces (npm's plotly.js-basic-dist-min, of the version that the plotly package was made with)."""
    return (_HERE / "plotly-basic.min.js").read_text(encoding="utf-8")  # its newlines become those that the browser hashes


def render_page(template: str, charts: Mapping[str, Chart], **values: Any) -> str:
    """A template that extends `frame.html.j2`, as HTML. All text of models and configs is escaped; only inline scripts may run.

    `charts` are the figures by the element that they stand in (`chart("name")`); their order and ids are fixed, so that the same
    values give the same bytes.
    """
    light_to_dark = {LIGHT[role]: DARK[role] for role in LIGHT}  # for the script, when the reader's scheme changes
    page_js = (_HERE / "page.js").read_text(encoding="utf-8")
    return _environment().get_template(template).render(
        **values,
        charts={name: chart.label for name, chart in charts.items()},
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        light=Markup(css_variables(LIGHT)),
        dark=Markup(css_variables(DARK)),
        plotly_js=Markup(plotly_js()),
        page_js=Markup(page_js),
        script_hashes=[_csp_hash(plotly_js()), _csp_hash(page_js)],
        charts_json=_script_json({"charts": {name: chart.as_json() for name, chart in charts.items()}, "dark": light_to_dark}),
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("percent", "percent_interval", "points", "number", "significant", "probability", "count", "hits", "duration",
                 "size", "visible"):  # fmt: skip
        environment.filters[name] = getattr(numbers, name)
    return environment


def _csp_hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
