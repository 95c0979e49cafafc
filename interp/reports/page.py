"""The report: one HTML page from a run's saved results, with everything it needs inside it."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pandas as pd

from interp.causality.removals import Removal
from interp.core.errors import ArtifactError
from interp.core.files import write_text
from interp.core.steps import RunDirectory
from interp.reports import numbers, views
from interp.reports.conditions import Group, grouped, labels_like
from interp.reports.figures import dose_chart, histogram_chart, latents_chart, rates_chart, removal_chart, training_chart
from interp.reports.plotting import Chart
from interp.reports.results import Results, read_results
from interp.reports.self_contained import render_page

REPORT_FILE = "report.html"
VERDICTS = ("undecided", "no evidence", "correlates", "contributes", "causes")
"""Weakest to strongest, after the word for too few answers."""
HEADLINES = {
    "causes": "The persona latents cause the behaviour",
    "contributes": "The persona latents contribute to the behaviour",
    "correlates": "Latents correlate with the behaviour; no cause was shown",
    "undecided": "Too few answers to tell whether latents cause the behaviour",
    "no evidence": "No evidence of a latent that carries the behaviour",
}

VECTORS = {"pairs": "trait's pairs", "answers": "models' own answers", "system_prompts": "base's answers under system prompts"}
"""What persona vectors are made of."""


def write_report(run: RunDirectory) -> Path:
    """Write `<run>/report.html` from saved results; the same results give the same bytes.

    Raises `ArtifactError` when the run is not finished or a result is missing or of another version.
    """
    results = read_results(run)
    try:
        page = render(results)
    except (KeyError, jinja2.UndefinedError) as error:
        raise ArtifactError(
            f"The results in {run.root} lack {error}: another version wrote them. Run again with --out on a new folder."
        ) from error
    path = run.root / REPORT_FILE
    write_text(path, page)
    return path


def render(results: Results) -> str:
    """The page as HTML."""
    summary, agreement = results.summary, results.agreement
    groups, word = grouped(results.conditions), summary["trait"]["shown"]
    rows = {row.condition: row for group in groups for row in group.rows}
    persona = [int(latent) for latent in summary["persona_latents"]]
    panels = views.dose_panels(results.dose_response, len(summary["steering_latents"]))
    curve = views.removal_curve(results.screen, summary)
    leading = views.leading_latents(results.latents, persona[: views.TOP_LATENTS])
    transcript_rows, exchanges = views.exchanges(results.answers, groups, summary["trait"])
    labelled = {row["group"]: row for row in (agreement["trait"] or {"groups": []})["groups"]}
    return render_page(
        "page.html.j2",
        _charts(results, groups, panels, curve),
        summary=summary,
        word=word,
        manifest=results.manifest,
        headline=HEADLINES.get(summary["verdict"], f"Verdict: {summary['verdict']}"),
        verdicts=VERDICTS,
        effects={f"{one}_vs_{other}": f"{rows[one].title}, against: {rows[other].title}" for one in rows for other in rows},
        titles_of={name: row.title for name, row in rows.items()},
        rerouted=views.rerouted_latents(results.rerouting),
        groups=groups,
        judge_on={name: labelled.get(labels_like(row)) for name, row in rows.items()},
        roles={row.role for row in rows.values()},
        drawn=any(row.draws for row in rows.values()),
        panels=panels,
        doses=results.dose_response.to_dict("records"),
        leading=leading,
        decimals=numbers.decimals(row["mean_diff"] for row in leading),
        n_latents=len(results.latents),
        removed=views.removal_rows(results.screen),
        removal=str(Removal(**summary["removal"])) if summary["removal"] else None,
        persona=persona,
        card_latents={int(card["latent"]) for card in results.cards},
        cards=[(card, views.examples(card)) for card in results.cards],
        shown_examples=views.SHOWN_EXAMPLES,
        transcript_rows=transcript_rows,
        exchanges=exchanges[: views.SHOWN_EXCHANGES],
        more_exchanges=views.in_groups(exchanges[views.SHOWN_EXCHANGES :], lambda exchange: exchange.group),
        agreement=agreement,
        judges=views.judge_rows(agreement),
        dictionary=results.dictionary,
        fit=results.fit,
        vectors=results.vectors,
        user_tokens=results.user_tokens,
        vector_words=VECTORS,
        config_json=json.dumps(results.manifest["config"], indent=2, ensure_ascii=False),
    )


def _charts(results: Results, groups: list[Group], panels: list[views.DosePanel], curve: pd.DataFrame) -> dict[str, Chart]:
    """Every figure of the page by its element id, which is fixed so that the page repeats to the byte."""
    summary, doses = results.summary, results.dose_response["dose"]
    word = summary["trait"]["shown"]
    charts = {"rates": rates_chart(groups, word)} if groups else {}
    for panel in panels:
        marked = summary["steering_dose"] if panel.steering else None
        charts[panel.chart] = dose_chart(panel, (float(doses.min()), float(doses.max())), word, marked)
    if len(results.latents):
        charts["latents"] = latents_chart(results.latents, summary["persona_latents"])
    if len(curve) > 1:
        charts["removal"] = removal_chart(curve, word)
    for card in results.cards:
        charts[f"histogram-{int(card['latent'])}"] = histogram_chart(card["histogram"], int(card["latent"]))
    if len(results.metrics) > 1:
        charts["training"] = training_chart(results.metrics)
    return charts
