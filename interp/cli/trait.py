"""`personascope trait`: list, show, make and check traits, sample their pairs, fit their judges."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from interp.cli.arguments import CheckTraitArguments, NewTraitArguments, Output, PairsArguments, TraitArguments, print_json
from interp.reports.terminal import agreement_table, plain_console, plain_table
from interp.reports.trait_terminal import show_trait_check
from interp.studies.traits import check_source, fit_source, write_sampled_pairs
from interp.traits import Trait, read_trait, shipped_traits
from interp.traits.new import new_trait


def list_traits(arguments: Output) -> None:
    """Shipped traits."""
    rows = [_summary(read_trait(name)) for name in shipped_traits()]
    table = plain_table("trait", "shown", "judge", "what it is", "pairs", "exemplars", "labels", left=4)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("name", "shown", "judge", "description", "pairs", "exemplars", "labels")))
    arguments.report({"traits": rows}, partial(plain_console().print, table))


def show(arguments: TraitArguments) -> None:
    """One trait: its settings and what its files hold."""
    known = read_trait(arguments.trait)
    counts, settings = _summary(known), known.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)
    text += "# {pairs} pairs, {exemplars} exemplars, {labels} labels, in ".format(**counts) + str(known.folder or arguments.trait)
    arguments.report({**counts, "settings": settings, "folder": str(known.folder) if known.folder else None}, text)


def new(arguments: NewTraitArguments) -> None:
    """Write a commented folder to edit; every file in it says what belongs there."""
    folder = new_trait(arguments.name, arguments.out or Path(arguments.name))
    text = f"{folder}: edit trait.yaml and pairs.yaml, then 'personascope trait check {folder}' says what is missing."
    arguments.report({"trait": arguments.name, "folder": str(folder)}, text)


def check(arguments: CheckTraitArguments) -> None:
    """What a trait is missing and what that costs, how far its judges agree with its labels, how its pairs separate in a model."""
    result = check_source(arguments.trait, arguments.judge, arguments.model, arguments.device, arguments.dtype, quiet=arguments.as_json)
    arguments.report(result.as_json(), partial(show_trait_check, result))


def pairs(arguments: PairsArguments) -> None:
    """Sample pairs under the trait's positive and negative system prompts; its judge confirms them."""
    settings = arguments.model_dump(exclude={"as_json", "trait"})
    origin = write_sampled_pairs(arguments.trait, **settings, quiet=arguments.as_json)
    text = f"{origin['confirmed']} of {origin['sampled']} sampled pairs were confirmed by '{origin['judge']}'. Saved in {arguments.out}"
    arguments.report(origin | {"pairs": str(arguments.out)}, text)


def fit(arguments: TraitArguments) -> None:
    """Fit a trait's judges (probe or margin, coherence) on its labels, into its folder."""
    agreements = fit_source(arguments.trait)
    if arguments.as_json:
        print_json(agreements)
        return
    print("On answers to questions that were left out of the fit:")
    for name, own in agreements.items():
        plain_console().print(agreement_table(f"judge of {name}: labels of", "labelled so", own["groups"]))


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
