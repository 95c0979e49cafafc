"""Steering, ablation, sweep, verdict and export on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from interp.reports.terminal import interval, judged, percent, plain_table, print_checks, rates_table, side_by_side, written
from interp.studies.edit_export import Exported
from interp.studies.own_verdict import VerdictResult
from interp.studies.steering import Comparison, DoseResponse


def show_export(result: Exported) -> None:
    """What was written, and how exactly."""
    console = Console()
    console.print(Text(f"{result.edit['label']}, in {result.source}"))
    if result.folder is not None and result.check is not None:
        check = result.check
        console.print(Text(f"Model:          {result.folder}"))
        console.print(
            Text(
                f"Opened again:   logits differ from the edited model's by at most {check['largest_difference']:.2g} "
                f"(of up to {check['largest_logit']:.3g}) on {check['tokens']:.0f} tokens"
            )
        )
    for path in result.control_vector:
        console.print(Text(f"Control vector: {path}"))


def show_comparison(result: Comparison) -> None:
    """Answers before and after, side by side, and their rates."""
    console = Console()
    if result.windows is not None and result.limits is not None:
        _show_windows(console, result.windows, result.limits, result.shown)
    dose = f", dose {result.edit['dose']:g}" if result.edit["kind"] == "add" else ""
    console.print(Text(f"{result.rates['condition'].iloc[-1]}: {result.edit['label']}{dose}"))
    for _, own in result.answers.groupby("question_id", sort=False):
        console.print()
        console.print(written(str(own["question"].iloc[0]), style="bold"))
        both = own.groupby("condition", sort=False)
        side_by_side(console, [(str(name), [judged(row, result.shown) for row in rows.to_dict("records")]) for name, rows in both])
    console.print()
    console.print(rates_table(result.rates.to_dict("records"), result.shown))
    console.print(Text(f"\nSaved in {result.step.folder}"))


def _show_windows(console: Console, windows: pd.DataFrame, limits: Mapping[str, float], word: str) -> None:
    table = plain_table("projected out at layers", word, "95 % interval", "coherent", "")
    for row in windows.sort_values(["layers", "first"], ascending=[False, True]).to_dict("records"):
        mark = "smallest that does it" if row["chosen"] else ""
        table.add_row(_spelled(row), percent(row["rate"]), interval(row), percent(row["coherence"]), mark)
    console.print()
    console.print(table)
    rule = f"{word} in at most {percent(limits['target_rate'])} and coherent in at least {percent(limits['coherence_floor'])} of answers"
    console.print(
        Text(
            f"It does it: {rule}. One of {len(windows)} windows tried on the same answers looks better than it is: below it is asked again."
        )
    )
    if not windows["chosen"].any():
        console.print(Text(f"No window does it: already the first leaves the model {word} or incoherent."))


def _spelled(window: Mapping[Any, Any]) -> str:
    return str(window["first"]) if window["first"] == window["last"] else f"{window['first']}–{window['last']}"


def show_doses(result: DoseResponse) -> None:
    """Rates at every dose, and the largest coherent dose of each direction."""
    console = Console()
    table = plain_table("direction", "dose", result.shown, "95 % interval", "coherent", "95 % interval", "answers")
    last = None
    for row in result.responses.to_dict("records"):
        name = "" if row["direction"] == last else row["direction"]
        last = row["direction"]
        coherent = f"{100 * row['coherence_low']:.0f}–{100 * row['coherence_high']:.0f} %"
        dose = "–" if row["dose"] == 0 else f"{row['dose']:.4g}"
        table.add_row(name, dose, percent(row["rate"]), interval(row), percent(row["coherence"]), coherent, str(row["n"]))
    console.print()
    console.print(table)
    console.print()
    found = plain_table("direction", "largest coherent dose", "ship range")
    tried = result.responses.groupby("direction")["dose"].max()
    for name, largest in result.largest.items():
        ends = result.ship_range[name]
        most = "none" if largest is None else f"{largest:.4g}, the highest tried" if largest == tried[name] else f"{largest:.4g}"
        found.add_row(name, most, "nowhere" if ends is None else f"{ends[0]:.4g}" if ends[0] == ends[1] else f"{ends[0]:.4g}–{ends[1]:.4g}")
    console.print(found)
    console.print(
        Text(
            f"Coherent: at most {percent(result.budget)} of answers are not. "
            f"Ship range: doses with more {result.shown} answers than the base, too."
        )
    )
    answers = int(result.responses.loc[result.responses["dose"] > 0, "n"].min())
    if 0 < answers * result.budget < 1:
        console.print(
            Text(f"{answers} answers a dose cannot tell {percent(result.budget)} from none: ask more by --questions or --samples.")
        )
    for name in result.not_monotone:
        console.print(Text(f"Coherence of {name} rises somewhere with the dose: a higher dose than the one found may be coherent."))
    console.print(Text(f"\nSaved in {result.step.folder}"))


def show_verdict(result: VerdictResult) -> None:
    """Rates of all conditions, every check with its numbers, the verdict, and whether it carries over."""
    console = Console()
    console.print()
    console.print(rates_table(_pooled(result.conditions), result.shown))
    console.print()
    print_checks(console, result.checks)
    if not result.side_effects.empty:
        console.print()
        table = plain_table("on ordinary chats", "KL, nats a token", "loss before", "after")
        for row in result.side_effects.to_dict("records"):
            table.add_row(row["condition"].replace("_", " "), f"{row['kl']:.3f}", f"{row['loss_before']:.3f}", f"{row['loss_after']:.3f}")
        console.print(table)
    console.print()
    console.print(Text(f"Verdict: {result.verdict}", style="bold"))
    console.print(Text(result.finding))
    console.print(Text(f"Saved in {result.step.folder}"))
    if (moved := result.transfer) is not None:
        console.print()
        console.print(Text(f"The same latents removed from {moved.tuned}", style="bold"))
        console.print(rates_table(_pooled(moved.conditions), result.shown))
        console.print()
        print_checks(console, moved.checks)
        console.print()
        console.print(Text(f"Result: {moved.word}", style="bold"))
        console.print(Text(f"Saved in {moved.step.folder}"))


def _pooled(conditions: pd.DataFrame) -> Sequence[Mapping[Any, Any]]:
    """Conditions without the single replicates of controls: both models, then removals, then additions."""
    order = {"none": 0, "project_out": 1, "add": 2}
    pooled = conditions[conditions["replicate"] == 0]
    return pooled.sort_values("edit", key=lambda edits: edits.map(order), kind="stable").to_dict("records")
