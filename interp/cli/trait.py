"""`personascope trait`: list, show, make and check traits, fit their judges, sample their pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import AsJson, Device, DType

if TYPE_CHECKING:
    from interp.studies.traits import TraitCheck
    from interp.traits import Trait

trait_app = typer.Typer(help="Traits: list, show, make one of your own, check it, sample its pairs.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="TRAIT", help="A shipped trait, a folder, a trait.yaml, or a persona-vectors JSON file.")]


@trait_app.command("list")
def list_traits(json: AsJson = False) -> None:
    """Shipped traits."""
    from rich.console import Console

    from interp.cli.shown import plain_table, print_json
    from interp.traits import read_trait, shipped_traits

    rows = [_summary(read_trait(name)) for name in shipped_traits()]
    if json:
        print_json({"traits": rows})
        return
    table = plain_table("trait", "shown", "judge", "what it is", "pairs", "exemplars", "labels", left=4)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("name", "shown", "judge", "description", "pairs", "exemplars", "labels")))
    Console().print(table)


@trait_app.command()
def show(trait: Source, json: AsJson = False) -> None:
    """One trait: its settings and what its files hold."""
    import yaml

    from interp.cli.shown import print_json
    from interp.traits import read_trait

    known = read_trait(trait)
    counts, settings = _summary(known), known.model_dump(mode="json", exclude_none=True)
    if json:
        print_json({**counts, "settings": settings, "folder": str(known.folder) if known.folder else None})
        return
    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120).rstrip())
    print(f"# {counts['pairs']} pairs, {counts['exemplars']} exemplars, {counts['labels']} labels, in {known.folder or trait}")


@trait_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and underscores.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; must be new. Default: the name.")] = None,
    json: AsJson = False,
) -> None:
    """Write a commented folder to edit; every file in it says what belongs there."""
    from interp.cli.shown import print_json
    from interp.traits.new import new_trait

    folder = new_trait(name, out or Path(name))
    if json:
        print_json({"trait": name, "folder": str(folder)})
        return
    print(f"{folder}: edit trait.yaml and pairs.yaml, then 'personascope trait check {folder}' says what is missing.")


@trait_app.command()
def check(
    trait: Source,
    model: Annotated[str | None, typer.Option("--model", help="Also test how the pairs separate in this model.")] = None,
    device: Device = None,
    dtype: DType = None,
    json: AsJson = False,
) -> None:
    """What a trait has not and what that costs, how far its judges agree with its labels, how its pairs separate in a model."""
    from interp.cli.shown import plain_warnings, print_json
    from interp.studies.traits import check_source

    with plain_warnings():
        result = check_source(trait, model, device or "auto", dtype or "auto", quiet=json)
    if json:
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
    from rich.console import Console
    from rich.text import Text

    from interp.cli.shown import percent, plain_table

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
