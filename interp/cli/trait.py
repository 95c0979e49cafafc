"""`personascope trait`: list, show, make and check traits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from interp.cli.arguments import CheckTraitArguments, NewTraitArguments, Output, TraitArguments, print_json
from interp.reports.terminal import percent, plain_table
from interp.studies.traits import TraitCheck, check_source
from interp.traits import Trait, read_trait, shipped_traits
from interp.traits.new import new_trait


def list_traits(arguments: Output) -> None:
    """Shipped traits."""
    rows = [_summary(read_trait(name)) for name in shipped_traits()]
    if arguments.as_json:
        print_json({"traits": rows})
        return
    table = plain_table("trait", "shown", "judge", "what it is", "pairs", "exemplars", "labels", left=4)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("name", "shown", "judge", "description", "pairs", "exemplars", "labels")))
    Console().print(table)


def show(arguments: TraitArguments) -> None:
    """One trait: its settings and what its files hold."""
    known = read_trait(arguments.trait)
    counts, settings = _summary(known), known.model_dump(mode="json", exclude_none=True)
    if arguments.as_json:
        print_json({**counts, "settings": settings, "folder": str(known.folder) if known.folder else None})
        return
    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120).rstrip())
    print(f"# {counts['pairs']} pairs, {counts['exemplars']} exemplars, {counts['labels']} labels, in {known.folder or arguments.trait}")


def new(arguments: NewTraitArguments) -> None:
    """Write a commented folder to edit; every file in it says what belongs there."""
    folder = new_trait(arguments.name, arguments.out or Path(arguments.name))
    if arguments.as_json:
        print_json({"trait": arguments.name, "folder": str(folder)})
    else:
        print(f"{folder}: edit trait.yaml and pairs.yaml, then 'personascope trait check {folder}' says what is missing.")


def check(arguments: CheckTraitArguments) -> None:
    """What a trait is missing and what that costs, how far its judges agree with its labels, how its pairs separate in a model."""
    result = check_source(arguments.trait, arguments.model, arguments.device, arguments.dtype, quiet=arguments.as_json)
    if arguments.as_json:
        print_json(result.as_json())
    else:
        _show(result)


def _summary(trait: Trait) -> dict[str, Any]:
    exemplars = trait.exemplars
    return {
        "name": trait.name,
        "shown": trait.shown,
        "judge": trait.judge.spec,
        "description": trait.description,
        "pairs": len(trait.pairs),
        "exemplars": 0 if exemplars is None else len(exemplars.shows) + len(exemplars.not_shown),
        "labels": len(trait.labels),
    }


def _show(result: TraitCheck) -> None:
    console = Console()
    for gap in result.gaps:
        console.print(Text(f"missing: {gap.missing}", style="red" if gap.blocks else ""))
        console.print(Text(f"  {gap.costs}; {gap.remedy}.", style="dim"))
    for title, rows in (("judge", result.judge), ("coherence judge", result.coherence)):
        if rows:
            table = plain_table(f"{title}, labels of", "answers", "labelled so", "unscored", "AUROC", "right", "kappa")
            for row in rows:
                counts = [str(row[name]) for name in ("n", "labelled", "unscored")]
                decimals = ["–" if row[name] is None else f"{row[name]:.2f}" for name in ("auroc", "kappa")]
                table.add_row(row["group"], *counts, decimals[0], percent(row["accuracy"]), decimals[1])
            console.print(table)
    if result.separation is not None:
        read = asdict(result.separation)
        console.print(
            Text(
                "{pairs} pairs in {model} at {hook_point}: AUROC {auroc:.2f} on questions left out, {paired:.0%} of pairs in order, "
                "cosine of halves {cosine_of_halves:.2f}".format(**read)
            )
        )
    console.print(Text(result.verdict, style="bold"))
