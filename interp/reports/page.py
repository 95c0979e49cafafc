"""The report: one HTML page from a run's saved results, with everything it needs inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from interp.core.errors import ArtifactError
from interp.core.files import write_text
from interp.core.steps import RunDirectory
from interp.reports import views, wording
from interp.reports.conditions import Group, grouped, labels_like
from interp.reports.figures import dose_chart, histogram_chart, latents_chart, rates_chart, training_chart
from interp.reports.plotting import Chart
from interp.reports.results import Results, read_results
from interp.reports.self_contained import render_page

REPORT_FILE = "report.html"
VERDICTS = ("no evidence", "correlates", "contributes", "causes")
"""Weakest to strongest."""
HEADLINES = {
    "causes": "The persona latents cause the behaviour",
    "contributes": "The persona latents contribute to the behaviour",
    "correlates": "Latents correlate with the behaviour; no cause was shown",
    "no evidence": "No evidence of a latent that carries the behaviour",
}


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
    groups, word = grouped(results.conditions), results.summary["trait"]["shown"]
    persona = [int(latent) for latent in results.summary["persona_latents"]]
    panels = views.dose_panels(results.dose_response, persona, results.summary["steering_latent"])
    charts = _charts(results, groups, panels)
    leading = views.leading_latents(results.latents, persona)
    titles, exchanges = views.exchanges(results.answers, groups, results.summary["trait"])
    titles_of = {row.name: row.title for group in groups for row in group.rows}
    return render_page(
        "page.html.j2",
        charts,
        summary=results.summary,
        word=word,
        manifest=results.manifest,
        headline=HEADLINES.get(results.summary["verdict"], "Verdict: " + str(results.summary["verdict"])),
        verdicts=VERDICTS,
        effects={f"{one}_vs_{other}": f"{titles_of[one]}, against: {titles_of[other]}" for one in titles_of for other in titles_of},
        titles_of=titles_of,
        rerouted=views.rerouted_latents(results.rerouting),
        groups=groups,
        judge_on=_judge_on(results.agreement, groups),
        roles={row.role for group in groups for row in group.rows},
        drawn=any(row.draws for group in groups for row in group.rows),
        panels=panels,
        unpanelled=max(0, len(persona) - views.DOSE_PANELS),
        doses=results.dose_response.to_dict("records"),
        leading=leading,
        decimals=wording.decimals(row["mean_diff"] for row in leading),
        n_latents=len(results.latents),
        screened=views.screened_latents(results.screen, results.dose_response),
        persona=persona,
        card_latents={int(card["latent"]) for card in results.cards},
        cards=[(card, views.examples(card)) for card in results.cards],
        shown_examples=views.SHOWN_EXAMPLES,
        titles=titles,
        exchanges=exchanges[: views.SHOWN_EXCHANGES],
        more_exchanges=views.by_group(exchanges[views.SHOWN_EXCHANGES :]),
        agreement=results.agreement,
        judges=views.judge_rows(results.agreement),
        dictionary=results.dictionary,
        steps=views.step_rows(results.manifest),
        config_json=json.dumps(results.manifest["config"], indent=2, ensure_ascii=False),
    )


def _judge_on(agreement: dict[str, Any], groups: list[Group]) -> dict[str, dict[str, Any] | None]:
    """For every condition the judge's agreement with hand labels of answers like its own, None where there are none."""
    known = {row["group"]: row for row in (agreement["trait"] or {"groups": []})["groups"]}
    return {row.name: known.get(labels_like(row)) for group in groups for row in group.rows}


def _charts(results: Results, groups: list[Group], panels: list[views.DosePanel]) -> dict[str, Chart]:
    """Every figure of the page by its element id, which is fixed so that the page repeats to the byte."""
    summary = results.summary
    persona = [int(latent) for latent in summary["persona_latents"]]
    charts: dict[str, Chart] = {}
    word = summary["trait"]["shown"]
    if groups:
        charts["rates"] = rates_chart(groups, word)
    for panel in panels:
        charts[panel.chart] = dose_chart(
            panel.curves, panel.reference, panel.role, panel.extent, word, summary["steering_dose"] if panel.steering else None
        )
    if len(results.latents):
        charts["latents"] = latents_chart(results.latents, [int(latent) for latent in results.screen["latent"]], persona)
    for card in results.cards:
        charts[f"histogram-{int(card['latent'])}"] = histogram_chart(card["histogram"], int(card["latent"]))
    if len(results.dictionary_metrics) > 1:
        charts["training"] = training_chart(results.dictionary_metrics)
    return charts
