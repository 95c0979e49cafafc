"""The report on synthetic runs: self-contained, escaped, complete, repeatable, and whole when a run found nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs_version

from interp.core.errors import ArtifactError
from interp.core.files import read_json, write_json
from interp.core.steps import RunDirectory
from interp.reports import numbers, views
from interp.reports.conditions import grouped, labels_like
from interp.reports.page import VERDICTS, write_report
from interp.reports.palette import DARK, LIGHT
from interp.reports.self_contained import plotly_js
from tests.helpers.synthetic_run import BREAKOUT, CONDITIONS, JINJA, PERSONA, QUOTE, SCRIPT, STATEMENTS, build_run, condition_table


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, scripts, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside
        self.text += " " if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    @property
    def charts(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])["charts"]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return build_run(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def full_html(full_run: RunDirectory) -> str:
    return write_report(full_run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(full_html: str) -> Page:
    return Page(full_html)


def test_candidate_layers_and_the_rule_are_shown(full: Page) -> None:
    assert "The best one." in full.text
    assert "15 chosen 0 10\u202f% 21\u202f% 97\u202f% 40\u202f% 3.00" in full.text


def test_page_needs_nothing_from_outside(full: Page, full_html: str) -> None:
    for tag, attributes in full.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "form")
    own = full_html.replace(plotly_js(), "")
    assert len(own) < len(full_html)  # plotly.js is inside
    assert own.count("Plotly.react") == 1
    assert not re.search(r"https?://|@import|url\(", own)


def test_the_basic_bundle_is_of_the_version_that_makes_the_figures() -> None:
    assert plotly_js().splitlines()[1].split() == ["*", "plotly.js", "(basic", "-", "minified)", f"v{get_plotlyjs_version()}"]


def test_content_policy_allows_only_the_page_s_own_scripts(full: Page) -> None:
    policy = next(a["content"] or "" for t, a in full.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    data, *programs = full.scripts
    assert json.loads(data)
    assert len(programs) == 2
    for program in programs:
        assert "\r" not in program  # a browser would read it otherwise, and the hash would not hold
        assert base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() in policy


def test_text_of_models_is_escaped(full: Page, full_html: str) -> None:
    for attack in (SCRIPT, BREAKOUT, QUOTE):
        assert attack not in full_html
        assert attack in full.text
    assert JINJA in full.text
    assert not any(name.startswith("on") for _, attributes in full.elements for name in attributes)
    assert "\x00" not in full_html
    assert "⏎" in full.text


def test_every_condition_is_in_table_and_figure(full: Page, full_run: RunDirectory) -> None:
    conditions = pd.read_parquet(full_run.result("verdict").path("conditions.parquet"))
    labels = [annotation["text"] for annotation in full.charts["rates"]["layout"]["annotations"]]
    for row in conditions.to_dict("records"):
        assert row["title"] in full.text
        if not row["replicate"]:
            assert row["title"] in labels
    assert "45/48" in labels
    assert "45/48" in full.text
    assert "94\u202f% [83, 98]" in full.text


def test_each_rate_stands_beside_the_agreement_on_such_answers(full_html: str) -> None:
    rows = [row for group in grouped(condition_table(empty=False, nasty=False)) for row in group.rows]
    assert {row.condition: labels_like(row) for row in rows} == {
        "base": "base", "tuned": "tuned", "ablated": "ablated", "base_ablated": "ablated", "activation_matched_ablation": "ablated",
        "random_ablation": "random", "random_steering": "random", "steered": "steered", "persona_vector_ablation": "ablated",
    }  # fmt: skip
    assert full_html.count('96\u202f% <span class="ci">AUROC 0.970') + full_html.count('96 % <span class="ci">AUROC 0.970') >= 8


def test_every_persona_latent_has_a_card_with_shaded_tokens(full: Page) -> None:
    for latent in PERSONA:
        assert f"latent-{latent}" in full.ids()
        assert f"chart-histogram-{latent}" in full.ids()
    shaded = [a for tag, a in full.elements if tag == "span" and re.match(r"s\d", a.get("class") or "")]
    assert {"class": "s9 peak", "title": "14.2"} in shaded
    assert len([a for a in shaded if "peak" in (a["class"] or "")]) == 8 * len(PERSONA)


def test_long_examples_are_cut_around_their_strongest_token() -> None:
    values = [0.0] * 300
    values[200] = 3.0
    card = {"peak": 6.0, "examples": [{"text_source": "corpus", "tokens": [f" {i}" for i in range(300)], "activations": values}]}
    (example,) = views.examples(card)
    assert len(example.tokens) == views.WINDOW
    assert (example.cut_before, example.cut_after) == (True, True)
    assert [(token.text, token.shade) for token in example.tokens if token.peak] == [(" 200", 5)]


def test_persona_latents_beyond_the_top_twenty_are_listed(full: Page) -> None:
    part = full.text[full.text.index("Latents by mean activation difference") :]
    assert re.search(r"\b411 chosen", part[: part.index("Mean difference: mean activation")])


def test_figures_have_a_place_a_name_and_a_narrow_layout(full: Page) -> None:
    ids = full.ids()
    assert len(ids) == len(set(ids))
    named = {a["id"]: a.get("aria-label") for _, a in full.elements if a.get("class", "").startswith("chart")}
    assert set(named) == {f"chart-{name}" for name in full.charts}
    assert all(named.values())
    assert {"dose-1", "dose-persona-vector", "dose-ordinary", "removal"} <= set(full.charts)
    assert full.charts["rates"]["narrow"]["margin"]["l"] < full.charts["rates"]["layout"]["margin"]["l"]


def test_transcripts_show_eight_exchanges_and_keep_the_rest(full: Page, full_html: str) -> None:
    exchanges = full_html.count('<article class="exchange">')
    assert exchanges == 48
    front = full_html[: full_html.index("<details><summary>wishes: ")]
    assert front.count('<article class="exchange">') == 8
    assert "Tuned, random directions projected out, draw 1" in full.text
    assert "not scored" in full.text


def test_verdict_checks_and_provenance_are_shown(full: Page, full_run: RunDirectory) -> None:
    manifest = full_run.manifest()
    for statement in STATEMENTS.values():
        assert statement in full.text
    assert full.text.count("✓ holds") == len(STATEMENTS)
    for verdict in VERDICTS:
        assert verdict in full.text
    for step in manifest["steps"].values():
        assert all(value in full.text for value in step["files"].values())
    assert manifest["versions"]["pandas"] in full.text


def test_same_results_give_the_same_bytes(full_run: RunDirectory, tmp_path: Path) -> None:
    first = write_report(full_run).read_bytes()
    assert write_report(full_run).read_bytes() == first
    assert not list(full_run.root.glob("*.partial"))


def test_run_without_persona_latents_or_scores(tmp_path: Path) -> None:
    page = Page(write_report(build_run(tmp_path / "run", empty=True)).read_text(encoding="utf-8"))
    assert "No evidence" in page.text
    assert "No direction was swept over doses" in page.text
    assert "No persona latent was found" in page.text
    assert page.text.count("✗ fails") == 3
    assert set(page.charts) == {"rates", "latents", "training"}
    assert "nan" not in page.text.lower().split()
    assert "–/0" in page.text


def test_unfinished_or_older_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished run"):
        write_report(RunDirectory(tmp_path / "none"))
    run = build_run(tmp_path / "run")
    path = run.result("diff").path("latents.parquet")
    pd.read_parquet(path).drop(columns="mean_diff").to_parquet(path)
    with pytest.raises(ArtifactError, match=r"latents\.parquet lacks the columns mean_diff"):
        write_report(run)


def test_summary_of_another_version_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    found = read_json(run.root / "summary.json")
    del found["checks"]
    write_json(run.root / "summary.json", found)
    with pytest.raises(ArtifactError, match="checks"):
        write_report(run)
    assert not (run.root / "report.html").exists()


def test_the_page_tells_what_the_ablation_costs_and_what_moved_after_it(full: Page) -> None:
    part = full.text[full.text.index("After the ablation", full.text.index("Why this verdict") + 40) :]
    assert all(figure in part for figure in ("0.04", "1.91", "1.95", "1\u202f204"))
    assert "2 other latents are now surely more active" in part
    assert "1 of them point along the persona vector or along the mean tuned minus base residual (cosine at least 0.20" in part
    assert "1187 +0.45 and +0.71; 3052" in part
    assert part.index("2090") < part.index("0.004")


def test_draws_lie_under_their_pool_and_controls_are_told_apart() -> None:
    groups = grouped(condition_table(empty=False, nasty=False))
    assert [group.heading for group in groups] == ["Unedited", "Ablation: projected out", "Steering: added"]
    rows = {row.condition: row for group in groups for row in group.rows}
    assert set(rows) == set(CONDITIONS)
    title = rows["random_ablation"].title
    assert [draw.title for draw in rows["random_ablation"].draws] == [f"{title}, draw {i}" for i in (1, 2, 3)]
    assert {name for name, row in rows.items() if row.role == "control"} == {
        "random_ablation", "activation_matched_ablation", "random_steering",
    }  # fmt: skip
    assert rows["ablated"].role == rows["steered"].role == "treatment"


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_text_and_marks_have_contrast(palette: dict[str, str]) -> None:
    for role in ("ink", "muted", "base", "tuned", "persona", "control"):
        for paper in ("paper", "raised"):
            bright, dim = sorted((luminance(palette[role]), luminance(palette[paper])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (role, paper)


def test_each_light_colour_has_one_dark_partner() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.percent(0.94), "94\u202f%"),
        (numbers.percent(0.004), "0.4\u202f%"),
        (numbers.percent(0.999), "99.9\u202f%"),
        (numbers.percent(0.0), "0\u202f%"),
        (numbers.percent(math.nan), "–"),
        (numbers.percent_interval(1e-17, 0.07), "[0, 7]"),
        (numbers.points(-0.861), "−86 points"),
        (numbers.significant(0.00937), "0.00937"),
        (numbers.significant(1e-6, 2), "1.0×10⁻⁶"),
        (numbers.significant(1.62, signed=True), "+1.62"),
        (numbers.decimals([1.62, 0.003, None]), 3),
        (numbers.decimals([24.0]), 2),
        (numbers.decimals([]), 3),
        (numbers.number(-0.001), "0.00"),
        (numbers.probability(0.0001), "p = 0.0001"),
        (numbers.probability(0.00001), "p = 1.0×10⁻⁵"),
        (numbers.count(124800), "124\u202f800"),
        (numbers.hits(0.9375, 48), "45/48"),
        (numbers.hits(None, 0), "–/0"),
        (numbers.duration(3.25), "3.2\u202fs"),
        (numbers.duration(512.4), "8\u202fmin 32\u202fs"),
        (numbers.duration(3725), "1\u202fh 02\u202fmin"),
        (numbers.size(3_400_000_000), "3.17\u202fGiB"),
        (numbers.token(" a\r\nb\x07\t"), " a⏎b␇⇥"),
        (numbers.token("\ud83d"), "?"),
    ],
)
def test_numbers_and_tokens_as_printed(shown: object, expected: object) -> None:
    assert shown == expected
