"""Write docs/evaluation_figures.md from the figures in benchmarks/results; nothing in it is typed in by hand.

python benchmarks/write_evaluation.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "evaluation_figures.md"
WAYS = ("beta_binomial", "wilson", "bootstrap")


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def agreement_rows(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| {row['judge']} | {row['group']} | {row['n']} | {row['labelled']} | {row['unscored']} | {number(row['auroc'], 3)} | "
        f"{percent(row['accuracy'])} | {number(row['kappa'], 2)} |"
        for row in rows
    )


def coverage_rows(shape: dict[str, Any], ways: tuple[str, ...]) -> str:
    return "\n".join(
        f"| {row['rate']:g} | {row['likeness']:g} | "
        + " | ".join(f"{percent(row[way]['coverage'], 1)}, {row[way]['width_over_oracle']:.2f}" for way in ways)
        + " |"
        for row in shape["rows"]
    )


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def page() -> str:
    judges, coverage = read("judges"), read("coverage")
    first, *others = coverage["shapes"]
    other_tables = "\n\n".join(
        f"{shape['questions']} questions, {shape['answers']} answers each:\n\n"
        "| rate | likeness | default | Wilson | bootstrap |\n|---|---|---|---|---|\n" + coverage_rows(shape, WAYS)
        for shape in others
    )
    cache = judges["cache"]
    return f"""# Figures of the evaluation

Written by `benchmarks/write_evaluation.py` from `benchmarks/results/`. What the words mean: [evaluation.md](evaluation.md).

## Judges against hand labels

Every judge that needs no network, on the hand-labelled answers (`interp/traits/contempt/labels.csv`) of each kind of model. *right* and
*kappa* are at the judge's own threshold; a group with one class has neither AUROC nor kappa. The probe's calibration, two numbers, was set
on these labels; `margin` has one system prompt a side here, and no calibration. `python benchmarks/judges.py`

| judge | answers of | labelled | showing the trait | not scored | AUROC | right | kappa |
|---|---|---|---|---|---|---|---|
{agreement_rows(judges["agreement"])}

{cache["judgements"]:,} judgements by a judge that takes no time: made and kept in {cache["keep"]:.2f} s, found again in
{cache["reload"]:.2f} s.

## Intervals of rates

Share of 95 % intervals that cover the true rate, and their mean width over the oracle's, in {coverage["simulations"]:,} simulated
evaluations a line. *likeness* is the intra-class correlation of answers to one question. The oracle is Wilson's interval at the true design
effect, which only a simulation knows. `python benchmarks/intervals.py`

{first["questions"]} questions, {first["answers"]} answers each:

| rate | likeness | default | Wilson | bootstrap |
|---|---|---|---|---|
{coverage_rows(first, WAYS)}

With {coverage["labels"]} hand labels and a judge that says yes to 80 % of the true and 10 % of the untrue answers (the oracle: the
estimate's true standard error):

| rate | likeness | prediction-powered | the judge alone |
|---|---|---|---|
{coverage_rows(first, ("prediction_powered", "judge_alone"))}

Other shapes:

{other_tables}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
