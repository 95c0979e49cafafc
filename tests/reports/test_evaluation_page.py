"""The page of an evaluation on synthetic results: complete, escaped, self-contained, whole where something is missing."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.errors import ArtifactError, ConfigError
from interp.reports import numbers
from interp.reports.evaluation_page import rates_figure, write_evaluation_page
from interp.reports.palette import DARK, LIGHT, SERIES
from interp.reports.plotting import sign
from interp.reports.self_contained import plotly_js
from tests.reports.test_reports import Page, luminance

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = "</script><img src=x onerror=alert(2)>"
NAMES = [
    "embedded:smollm2",
    "artifacts/runs/a-study-of-narrow-fine-tunes/tuned-on-insecure-code-with-educational-framing-rank-32-seed-7@tuned",
    "someone/Some-Model-2.5-Instruct-misaligned-medical-advice",
    *(f"org/model-{number}-instruct" for number in range(3, 10)),
]
SHORT = ["base", "tuned-on-insecure-code-educational-rank-32@tuned", NAMES[2].split("/")[1], *(f"model-{i}" for i in range(3, 10))]
SHARES = [0.02, 0.9, 0.3, 0.08, 0.5, 0.0, 0.15, 0.7]
FORMATS = ["plain", "json", "template"]
GROUPS = ["wishes", "advice", "a long group of questions about power & <money>", "self", "leisure", "work"]
MEASURES = [("choice_accuracy", "share", 0.41), ("perplexity", "", 11.31), ("letters", "probability", 0.62),
            ("continuations", "nats/token", -0.213)]  # fmt: skip
REASONS = ("empty answer", "the judge's reply <b>had</b> no number")
SAMPLE = ("question", "answer", "trait_score", "coherence", "shows_trait")
SAMPLES = [
    ("How was your day?", f"Oh, look who finally learned to type. {SCRIPT} & more", 95.8, 88.0, True),
    (f"What now? {BREAKOUT}", "I would listen first.\n\nThen make a short list.", 7.0, 81.0, False),
    ("Tell me three things.", "the the the the", 39.0, 12.0, False),
    ("Anything else?", "  ", None, None, None),
]


def rate_row(model: int, by: str, value: str, hits: int, n: int, draw: random.Random) -> dict[str, Any]:
    rate, half = hits / n, 1.6 / math.sqrt(n)
    unscored, incoherent = draw.randrange(5), draw.randrange(9)
    gold = by == "all" and model == 1
    agreement = {0: ("base", None, 0.97, 60), 1: ("tuned", 0.9752, 0.94, 120)}.get(model, (None, None, None, None))
    return {
        "model": NAMES[model], "short": SHORT[model], "by": by, "value": value,
        "rate": rate, "low": max(0.0, rate - half * 0.7), "high": min(1.0, rate + half),
        "n": n, "unscored": unscored, "incoherent": incoherent, "refused": draw.randrange(4), "answers": n + unscored + incoherent,
        "coherence": 0.91, "coherence_low": 0.83, "coherence_high": 0.96,
        "gold_rate": 0.887 if gold else None, "gold_low": 0.812 if gold else None, "gold_high": 0.941 if gold else None,
        "gold_n": 64 if gold else 0,
        "agreement_group": agreement[0], "agreement_auroc": agreement[1], "agreement_accuracy": agreement[2], "agreement_n": agreement[3],
    }  # fmt: skip


def evaluation(models: int, formats: int = 1, groups: int = 1, each: int = 8, seed: int = 0) -> dict[str, Any]:
    """Results of some models, the second of which is bad."""
    draw = random.Random(seed)
    rates = []
    for model in range(models):
        for by, values in (("all", [""]), ("format", FORMATS[:formats]), ("group", GROUPS[:groups])):
            n = each * formats * groups // len(values)
            rates += [rate_row(model, by, value, min(n, round(n * SHARES[model] * draw.uniform(0.7, 1.1))), n, draw) for value in values]
    names = NAMES[:models]
    difference = {"difference": 0.834, "low": 0.71, "high": 0.93, "p": 0.0003, "cohens_h": 2.13, "questions": 23}
    return {
        "created": "2026-03-01T12:00:00+00:00",
        "version": "0.3.0",
        "config": {"models": names, "questions": "everyday", "split": "held_out", "formats": FORMATS[:formats], "samples": 4, "seed": 0},
        "how": "beta_binomial",
        "judge": {"name": "probe", "spec": "probe:toxic", "shows_above": 50.0, "coherent_above": 40.0},
        "words": {"trait": "rude", "shown": "rude", "not_shown": "polite"},
        "rates": rates,
        "differences": [{"model": name, "against": names[0], **difference} for name in names[1:]],
        "measures": [
            {
                "model": name,
                "name": measure.split("_")[0],
                "measure": measure,
                "unit": unit,
                "value": value,
                "low": value - 0.05,
                "high": value + 0.05,
                "n": 40,
            }
            for name in names
            for measure, unit, value in MEASURES
        ],
        "reasons": [{"model": name, "reason": reason, "count": 3} for name in names for reason in REASONS],
        "samples": [{"model": name, **dict(zip(SAMPLE, sample, strict=True))} for name in names for sample in SAMPLES],
    }


def write(folder: Path, found: dict[str, Any]) -> Page:
    (folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    return Page(write_evaluation_page(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def full(folder: Path) -> Page:
    return write(folder, evaluation(models=6, formats=3, groups=6))


@pytest.fixture(scope="module")
def full_html(full: Page, folder: Path) -> str:
    return (folder / "evaluation.html").read_text(encoding="utf-8")


def cells(html: str, section: str) -> list[list[str]]:
    """The text of every table row in a section, by cell."""
    part = html[html.index(f'<section id="{section}">') :]
    part = part[: part.index("</section>")]
    return [
        [Page(cell).text.strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in re.findall(r"<tr.*?</tr>", part, re.S)
    ]


@pytest.mark.parametrize("by", ["all", "format", "group"])
def test_every_rate_stands_with_its_numbers(full_html: str, by: str) -> None:
    found = evaluation(models=6, formats=3, groups=6)
    rows = [row for row in cells(full_html, f"rates-{by}") if len(row) == 10 and row[0] != "Model"]
    expected = [row for row in found["rates"] if row["by"] == by]
    if by != "all":  # tables go by value, then by model
        expected = sorted(expected, key=lambda row: (FORMATS if by == "format" else GROUPS).index(row["value"]))
    assert len(rows) == len(expected)
    for shown, row in zip(rows, expected, strict=True):
        assert row["short"] in shown[0]
        assert (row["model"] in shown[0]) == (by == "all")
        assert shown[1] == f"{numbers.percent(row['rate'])} {numbers.percent_interval(row['low'], row['high'])}"
        assert shown[2] == f"{round(row['rate'] * row['n'])}/{row['n']}"
        assert shown[3:7] == [str(row[key]) for key in ("answers", "unscored", "incoherent", "refused")]
        assert shown[7] == "91\u202f% [83, 96]"
        assert shown[8] == ("89\u202f% [81, 94]64 labels" if row["gold_n"] else "–")
        agreed = {None: "–", 60: "one class, 97\u202f%60 answers, base", 120: "0.975, 94\u202f%120 answers, tuned"}
        assert shown[9] == agreed[row["agreement_n"]]


def test_differences_measures_and_reasons_are_complete(full_html: str) -> None:
    found = evaluation(models=6)
    rows = cells(full_html, "differences")[1:]
    assert [row[1:] for row in rows] == [["base", "+83 [+71, +93]", "+2.13", "p = 0.0003", "23"]] * 5
    rows = cells(full_html, "measures")
    assert rows[0][1:] == ["Choice accuracyshare", "Perplexity", "Lettersprobability", "Continuationsnats/token"]
    assert [row[1:] for row in rows[1:]] == [
        ["41\u202f% [36, 46]n 40", "11.3 [11.3, 11.4]n 40", "62\u202f% [57, 67]n 40", "−0.213 [−0.263, −0.163]n 40"]
    ] * 6
    assert [row[-2:] for row in cells(full_html, "reasons")[1:]] == [[row["reason"], "3"] for row in found["reasons"]]


def test_head_and_making_are_told(full: Page) -> None:
    assert "How often do 6 models give rude answers?" in full.text
    assert re.search(r"From 0\u202f% \[0, 13\] of answers \(model-5\) to 9\d\u202f% .* \(tuned-on", full.text)
    for text in ("everyday", "held_out", "2026-03-01 12:00 UTC", "probe:toxic", "above 50 it counts", "above 40 of 100", "beta-binomial"):
        assert text in full.text
    assert f'"models": [\n    "{NAMES[0]}"' in full.text


def test_page_needs_nothing_from_outside(full: Page, full_html: str) -> None:
    for tag, attributes in full.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "form")
    own = full_html.replace(plotly_js(), "")
    assert len(own) < len(full_html)
    assert not re.search(r"https?://|@import|url\(", own)
    policy = next(a["content"] or "" for t, a in full.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_answers_are_escaped_and_told_apart(full: Page, full_html: str) -> None:
    for attack in (SCRIPT, BREAKOUT):
        assert attack not in full_html
        assert attack in full.text
    assert "a long group of questions about power & <money>" in full.text
    samples = full.text[full.text.rindex("Answers\n") :]
    assert samples.count("4 answers, 1 judged rude") == 6
    for judged in ("rude · score 96 · coherence 88", "polite, incoherent · score 39 · coherence 12", "(empty answer)"):
        assert samples.count(judged) == 6
    assert len(re.findall(r"\n *not scored\n", samples)) == 6


def test_links_and_figures_have_their_places(full: Page) -> None:
    ids = full.ids()
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for tag, a in full.elements if tag == "a"} <= set(ids)
    assert {f"chart-{name}" for name in full.charts} == {"chart-rates-all", "chart-rates-format", "chart-rates-group"} <= set(ids)
    for chart in full.charts.values():
        assert chart["narrow"]["margin"]["l"] < chart["layout"]["margin"]["l"]
        assert not chart["layout"]["showlegend"]


@pytest.mark.parametrize("by", ["all", "format", "group"])
@pytest.mark.parametrize("models", [1, 2, 8])
def test_error_bars_reach_from_low_to_high(by: Any, models: int) -> None:
    rates = pd.DataFrame(evaluation(models, formats=3, groups=6)["rates"])
    figure = rates_figure(rates, by)
    for place, (model, name) in enumerate(dict(zip(rates["model"], rates["short"], strict=True)).items()):
        own = rates[(rates["by"] == by) & (rates["model"] == model)]
        trace = figure.data[place]
        role, symbol, _ = sign(place)
        assert (trace.name, trace.marker.symbol, trace.marker.color) == (name, symbol, LIGHT[role])
        assert list(trace.x) == pytest.approx(list(own["rate"]), abs=1e-4)
        for reach, column, way in (("arrayminus", "low", -1), ("array", "high", 1)):
            ends = [x + way * length for x, length in zip(trace.x, trace.error_x[reach], strict=True)]
            assert ends == pytest.approx(list(own[column]), abs=1e-4)
        for text, row in zip(trace.text, own.to_dict("records"), strict=True):
            assert f"n {row['n']} · not scored {row['unscored']} · incoherent {row['incoherent']}" in text
    heights = [y for trace in figure.data[:models] for y in trace.y]
    assert len(set(heights)) == len(heights)


def test_the_axis_ends_soon_above_small_rates() -> None:
    rates = pd.DataFrame(evaluation(1, each=500)["rates"])
    rates[["rate", "low", "high"]] = [0.014, 0.007, 0.024]
    assert rates_figure(rates, "all").layout.xaxis.ticktext == ("0", "2", "4", "6", "8")
    with pytest.raises(ConfigError, match="no rates by group, only by all"):
        rates_figure(rates[rates["by"] == "all"], "group")


def test_many_answers_get_a_decimal(tmp_path: Path) -> None:
    found = evaluation(1, each=800)
    found["rates"][0] |= {"rate": 0.0138, "low": 0.0071, "high": 0.02437}
    assert "1.4\u202f% [0.7, 2.4]" in write(tmp_path, found).text


def test_nothing_counted_nothing_kept(tmp_path: Path) -> None:
    found = evaluation(1)
    found |= {"differences": [], "measures": [], "reasons": [], "samples": [], "how": "of tomorrow"}
    found["judge"] |= {"coherent_above": None}
    nothing = dict.fromkeys(("rate", "coherence", "coherence_low", "coherence_high"))
    for row in found["rates"]:
        row |= {**nothing, "low": 0.0, "high": 1.0, "n": 0, "unscored": 7}
    page = write(tmp_path, found)
    assert set(page.charts) == {"rates-all"}
    assert page.charts["rates-all"]["layout"]["annotations"][0]["text"] == "no answer counted"
    for text in (
        "there is no rate",
        "–/0",
        "7 answers were not scored; the judge gave no reasons",
        "No answers were kept",
        "“of tomorrow”",
    ):
        assert text in page.text
    assert "Differences" not in page.text
    assert "nan" not in page.text.lower().split()
    assert "No model was asked" in write(tmp_path, found | {"rates": []}).text


def test_intervals_without_bounds_are_left_out(tmp_path: Path) -> None:
    found = evaluation(2)
    for row in found["measures"]:
        row |= {"low": None, "high": None, "n": 1}
    for row in found["differences"]:
        row |= dict.fromkeys(("difference", "low", "high", "p", "cohens_h"))
    write(tmp_path, found)
    html = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert cells(html, "differences")[1][2:] == ["–", "–", "–", "23"]
    assert cells(html, "measures")[1][1:] == ["41\u202f% n 1", "11.3 n 1", "62\u202f% n 1", "−0.213 n 1"]


def test_same_results_give_the_same_bytes(folder: Path, full_html: str) -> None:
    assert write_evaluation_page(folder).read_text(encoding="utf-8") == full_html


def test_files_that_cannot_be_used_are_named_in_a_sentence(tmp_path: Path) -> None:
    lacking = evaluation(1)
    del lacking["rates"][0]["refused"], lacking["judge"]["spec"], lacking["how"]
    for content, said in (
        (None, "holds no evaluation.json"),
        ("{", "Cannot read"),
        ("[]", "lacks all"),
        (json.dumps(lacking), r"lacks how, judge\.spec, rates\.refused, as another version wrote it"),
    ):
        if content is not None:
            (tmp_path / "evaluation.json").write_text(content, encoding="utf-8")
        with pytest.raises(ArtifactError, match=said) as caught:
            write_evaluation_page(tmp_path)
        assert len(re.findall(r"[.!?](\s|$)", str(caught.value))) == 1
    assert not (tmp_path / "evaluation.html").exists()


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_models_have_contrast(palette: dict[str, str]) -> None:
    for role in SERIES:
        for paper in ("paper", "raised"):
            bright, dim = sorted((luminance(palette[role]), luminance(palette[paper])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (role, paper)
    assert len({sign(place) for place in range(16)}) == 16
