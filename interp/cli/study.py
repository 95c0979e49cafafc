"""`personascope demo`, `run`, `diff` and `report`: the main job, whole or up to its diff, in a few lines on the terminal."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from interp.causality.latent_sets import rankings
from interp.cli.arguments import DiffArguments, ReportArguments, RunArguments, StudyArguments, print_json
from interp.core.errors import ArtifactError, ConfigError
from interp.core.formatting import plain_records
from interp.core.steps import RunDirectory
from interp.diffing.rankings import metrics_of
from interp.reports import numbers
from interp.reports.page import write_report
from interp.reports.seeds_page import write_seeds_page
from interp.reports.seeds_terminal import show_seeds
from interp.reports.terminal import plain_console, plain_table, print_blocks, rates_table
from interp.studies.opened import StudyRun
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.fit import DictionaryFit
from interp.studies.persona.seeds import SEEDS_FILE, run_seeds, seed_folder
from interp.studies.persona.study import StudyResult, run_study

SHORT = {"attribution": "attr.", "cosine_mean_difference": "mean", "mean_diff": "diff", "relative_norm": "norm", "cosine": "cos"}
"""Headings of metrics whose names are long."""


def run_pair(config: StudyConfig, arguments: RunArguments) -> int:
    """Run the study on a pair of the user's own."""
    check_pair_is_given(config)
    return run(config, arguments)


def run(config: StudyConfig, arguments: RunArguments) -> int:
    """Run the study and write its report, or that of several seeds; 1 where a seed failed."""
    if arguments.seeds is not None:
        folder = arguments.folder(config.name)
        merged = run_seeds(config, arguments.seeds, folder, arguments.as_json, arguments.announce)
        page = write_seeds_page(folder)
        for one in merged.summary["seeds"]:
            write_report(RunDirectory(folder / seed_folder(one["seed"])))
        arguments.report(merged.summary, partial(show_seeds, merged.summary, page))
        return int(bool(merged.summary["failed"]))
    result = _run_study(config, arguments)
    arguments.report(result.summary, partial(_print_summary, result.summary, write_report(result.run)))
    return 0


def diff(config: StudyConfig, arguments: DiffArguments) -> None:
    """Run the study up to its diff, and to whether the dictionary is fit for it."""
    check_pair_is_given(config)
    result = _run_study(config, arguments, until="fit")
    path = result.steps["diff"].path("latents.parquet")
    fit = result.steps["fit"].load(DictionaryFit).fit
    hook_point = result.run.manifest()["hook_point"]
    table, largest_q = pd.read_parquet(path), config.diff.largest_q
    norms = StudyRun(result.run.root, quiet=True).context.dictionary.decoder_rows().norm(dim=-1).tolist()
    orders = rankings(table, largest_q, norms).values()
    leading = list(dict.fromkeys(latent for turn in zip_longest(*orders) for latent in turn if latent is not None))[: arguments.top]
    shortlist = table.set_index("latent", drop=False).loc[leading]
    if arguments.as_json:
        tested = {"hook_point": hook_point, "n_latents": len(table), "largest_q": largest_q, "candidates": plain_records(shortlist)}
        print_json({"command": "diff", "run": str(result.run.root), "table": str(path), **tested, "dictionary_fit": fit})
        return
    increased = int(((table["q_value"] <= largest_q) & (table["mean_diff"] > 0)).sum())
    print_blocks(f"{increased} of {len(table)} latents are surely more active in the tuned model at {hook_point} (q ≤ {largest_q:g}).")
    console = plain_console()
    console.print(_fit_text(fit))
    if not shortlist.empty:
        console.print("Candidates, with their rank by every metric:")
        console.print(_candidates_table(shortlist, list(metrics_of(table))))
        console.print()
    console.print(f"All latents and columns: {path}")
    console.print(f"Try one out:             personascope steer {result.run.root} --latent N --dose 0.5")
    console.print("The whole job from here: the same options with 'personascope run'")


def report(arguments: ReportArguments) -> None:
    """Write the report of a run, or of one with several seeds."""
    folder = arguments.folder
    page = str(write_seeds_page(folder) if (folder / SEEDS_FILE).is_file() else write_report(RunDirectory(folder)))
    arguments.report({"report": page}, page)


def check_pair_is_given(config: StudyConfig) -> None:
    """Raise `ConfigError` where there is no tuned model."""
    if config.tuned is None:
        raise ConfigError("No tuned model is given. Add --tuned HUB_ID_OR_FOLDER_OR_ADAPTER, or use 'personascope demo'.")


def _run_study(config: StudyConfig, arguments: StudyArguments, until: str | None = None) -> StudyResult:
    folder = arguments.folder(config.name)
    if (folder / SEEDS_FILE).is_file():
        raise ArtifactError(f"{folder} holds several seeds. Choose another --out folder, or the folder of one seed in it.")
    arguments.announce(f"{config.name}: {config.base} and {config.tuned or 'an organism made of it'} in {folder}")
    return run_study(config, folder, quiet=arguments.as_json, announce=arguments.announce, until=until)


def _print_summary(summary: dict[str, Any], page: Path) -> None:
    rates = [{"condition": name, **rate} for name, rate in summary["rates"].items() if rate["role"] != "reference"]
    print_blocks(rates_table(rates, summary["trait"]["shown"]))
    console = plain_console()
    console.print(f"\nVerdict: {summary['verdict']}", style="bold")
    console.print(summary["finding"])
    if summary.get("beyond_baselines"):
        console.print(summary["beyond_baselines"])
    if layers := summary["layers"]:
        tried = ", ".join(str(row["layer"]) for row in layers["candidates"])
        console.print(f"Layer {layers['layer']} was chosen from {tried}; the report has their figures and the rule.")
    console.print(_fit_text(summary["dictionary_fit"]))
    if summary["cues"] is not None:
        console.print(summary["cues"]["statement"])
    duration, memory = numbers.duration(summary["duration_s"]), numbers.size(summary["peak_memory_bytes"])
    console.print(f"All steps together took {duration}, at most {memory} of memory.")
    console.print(f"Report: {page}")


def _fit_text(fit: dict[str, Any]) -> str:
    """What the dictionary holds of what fine-tuning changed, and why it may be too little."""
    shares = " and ".join(numbers.percent(fit[f"share_of_{name}_difference"]) for name in ("mean", "paired"))
    return "\n".join(
        [f"The dictionary reconstructs {shares} of the mean and of the tokenwise difference between the models.", *fit["doubts"]]
    )


def _candidates_table(shortlist: pd.DataFrame, metrics: list[str]) -> Table:
    table = plain_table("latent", "mean_diff [95 %]", "q", "fires: base", "tuned", *(SHORT.get(name, name) for name in metrics), left=0)
    for row in shortlist.sort_values("mean_diff", ascending=False).to_dict("records"):
        mean_diff = f"{row['mean_diff']:.2f} [{row['mean_diff_low']:.2f}–{row['mean_diff_high']:.2f}]"
        fires = [f"{100 * row[f'rate_{model}']:.1f} %" for model in ("base", "tuned")]
        table.add_row(str(row["latent"]), mean_diff, f"{row['q_value']:.1g}", *fires, *(str(row[f"rank_{name}"]) for name in metrics))
    return table
