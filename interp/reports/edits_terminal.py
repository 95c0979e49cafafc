"""Steering, ablation, sweep, verdict, export and knock-out on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from interp.reports.terminal import ALARM, interval, percent, plain_console, plain_table, print_blocks, rates_table, side_by_side, written
from interp.studies.edit_export import Exported
from interp.studies.knockout import Knockout
from interp.studies.own_verdict import VerdictResult
from interp.studies.steering import Comparison, DoseResponse


def show_export(result: Exported) -> None:
    """What was written, and how exactly."""
    console = plain_console()
    console.print(f"{result.edit['label']}, in {result.source}")
    if result.folder is not None and result.check is not None:
        console.print(f"Model:          {result.folder}")
        console.print(
            "Opened again:   logits differ from the edited model's by at most {largest_difference:.2g} (of up to {largest_logit:.3g}) "
            "on {tokens:.0f} tokens".format(**result.check)
        )
    for path in result.control_vector:
        console.print(f"Control vector: {path}")


def show_comparison(result: Comparison) -> None:
    """Answers before and after, side by side, and their rates."""
    console = plain_console()
    if result.windows is not None and result.limits is not None:
        print_blocks(_windows_table(result.windows, result.shown))
        console.print(
            f"It does it: {result.shown} in at most {percent(result.limits['target_rate'])} and coherent in at least "
            f"{percent(result.limits['coherence_floor'])} of answers. One of {len(result.windows)} windows tried on the same answers looks "
            "better than it is: below it is asked again."
        )
        if not result.windows["chosen"].any():
            console.print(f"No window does it: already the first leaves the model {result.shown} or incoherent.")
    dose = f", dose {result.edit['dose']:g}" if result.edit["kind"] == "add" else ""
    console.print(f"{result.rates['condition'].iloc[-1]}: {result.edit['label']}{dose}")
    for _, own in result.answers.groupby("question_id", sort=False):
        print_blocks(written(str(own["question"].iloc[0]), style="bold"))
        both = own.groupby("condition", sort=False)
        side_by_side(console, [(str(name), [_judged(row, result.shown) for row in rows.to_dict("records")]) for name, rows in both])
    print_blocks(rates_table(result.rates.to_dict("records"), result.shown), f"Saved in {result.step.folder}")


def _judged(answer: Mapping[Any, Any], word: str) -> Text:
    """An answer with what the judges think of it; `word` is the trait's for answers that show it."""
    text = written(str(answer["answer"]))
    score = "not scored" if pd.isna(answer["trait_score"]) else f"{word} {answer['trait_score']:.0f} of 100"
    words = score if answer["coherent"] is True or pd.isna(answer["coherent"]) else f"{score}, incoherent"
    return text.append(f"\n{words}", style=ALARM if answer["shows_trait"] is True else "dim")


def _windows_table(windows: pd.DataFrame, word: str) -> Table:
    table = plain_table("projected out at layers", word, "95 % interval", "coherent", "")
    for row in windows.sort_values(["layers", "first"], ascending=[False, True]).to_dict("records"):
        layers = str(row["first"]) if row["first"] == row["last"] else f"{row['first']}–{row['last']}"
        mark = "smallest that does it" if row["chosen"] else ""
        table.add_row(layers, percent(row["rate"]), interval(row), percent(row["coherence"]), mark)
    return table


def show_doses(result: DoseResponse) -> None:
    """Rates at every dose, and the largest coherent dose of each direction."""
    console = plain_console()
    print_blocks(_doses_table(result), _ship_table(result))
    console.print(
        f"Coherent: at most {percent(result.budget)} of answers are not. "
        f"Ship range: doses with more {result.shown} answers than the base, too."
    )
    answers = int(result.responses.loc[result.responses["dose"] > 0, "n"].min())
    if 0 < answers * result.budget < 1:
        console.print(f"{answers} answers a dose cannot tell {percent(result.budget)} from none: ask more by --questions or --samples.")
    for name in result.not_monotone:
        console.print(f"Coherence of {name} rises somewhere with the dose: a higher dose than the one found may be coherent.")
    print_blocks(f"Saved in {result.step.folder}")


def _doses_table(result: DoseResponse) -> Table:
    table = plain_table("direction", "dose", result.shown, "95 % interval", "coherent", "95 % interval", "answers")
    repeated = result.responses["direction"].eq(result.responses["direction"].shift())
    for row, again in zip(result.responses.to_dict("records"), repeated, strict=True):
        coherent = f"{100 * row['coherence_low']:.0f}–{100 * row['coherence_high']:.0f} %"
        dose = "–" if row["dose"] == 0 else f"{row['dose']:.4g}"
        name = "" if again else row["direction"]
        table.add_row(name, dose, percent(row["rate"]), interval(row), percent(row["coherence"]), coherent, str(row["n"]))
    return table


def _ship_table(result: DoseResponse) -> Table:
    table = plain_table("direction", "largest coherent dose", "ship range")
    highest = result.responses.groupby("direction")["dose"].max()
    for name, largest in result.largest.items():
        most = "none" if largest is None else f"{largest:.4g}, the highest tried" if largest == highest[name] else f"{largest:.4g}"
        ends = result.ship_range[name]
        range_text = "nowhere" if ends is None else f"{ends[0]:.4g}" if ends[0] == ends[1] else f"{ends[0]:.4g}–{ends[1]:.4g}"
        table.add_row(name, most, range_text)
    return table


def show_verdict(result: VerdictResult) -> None:
    """Rates of all conditions, every check with its numbers, the verdict, and whether it carries over."""
    console = plain_console()
    print_blocks(rates_table(_pooled(result.conditions), result.shown), _checks_table(result.checks))
    if not result.side_effects.empty:
        table = plain_table("on ordinary chats", "KL, nats a token", "loss before", "after")
        for row in result.side_effects.to_dict("records"):
            table.add_row(row["condition"].replace("_", " "), *(f"{row[name]:.3f}" for name in ("kl", "loss_before", "loss_after")))
        print_blocks(table)
    console.print(f"\nVerdict: {result.verdict}", style="bold")
    console.print("\n".join(filter(None, [result.finding, result.beyond_baselines, f"Saved in {result.step.folder}"])))
    if (transfer := result.transfer) is not None:
        console.print(f"\nThe same latents removed from {transfer.tuned}", style="bold")
        console.print(rates_table(_pooled(transfer.conditions), result.shown))
        print_blocks(_checks_table(transfer.checks))
        console.print(f"\nResult: {transfer.word}", style="bold")
        console.print(f"Saved in {transfer.step.folder}")


def _checks_table(checks: Sequence[Mapping[Any, Any]]) -> Table:
    """Every rule with its numbers."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for check in checks:
        mark = Text("holds", style="green") if check["holds"] else Text("fails", style=ALARM)
        table.add_row(mark, str(check["statement"]))
    return table


def _pooled(conditions: pd.DataFrame) -> Sequence[Mapping[Any, Any]]:
    """Conditions without the single replicates of controls: both models, then removals, then additions."""
    order = {"none": 0, "project_out": 1, "add": 2}
    pooled = conditions[conditions["replicate"] == 0]
    return pooled.sort_values("edit", key=lambda edits: edits.map(order), kind="stable").to_dict("records")


def show_knockout(result: Knockout, page: Path) -> None:
    """Every part alone and left out, and the finding."""
    word, task = result.about["shown"], result.cells[["task_rate", "task_kept"]].notna().any()
    heads = [head for head, known in zip(("in domain", "task kept"), task, strict=True) if known]
    table = plain_table("cell", "part", word, "95 % interval", "coherent", *heads, left=2)
    for row in result.cells.to_dict("records"):
        kept = [percent(row[name]) for name in task.index[task]]
        style = "bold" if row["surely"] and row["coherent_enough"] else ""
        table.add_row(row["cell"], row["part"], percent(row["rate"]), interval(row), percent(row["coherence"]), *kept, style=style)
    print_blocks(table, result.about["finding"], result.about["tests"])
    if result.about["unchanged"]:
        print_blocks(f"Left as they were by the fine-tune: {', '.join(result.about['unchanged'])}.")
    print_blocks(f"Page: {page}\nSaved in {result.step.folder}")
