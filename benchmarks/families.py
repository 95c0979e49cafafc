"""The main job on several base models, personas and seeds: verdict, rates, coherence, memory and time of each.

A cell is BASE/RECIPE/SEED; RECIPE@SHARE has that share of chats that show the trait, the others from its benign twin, and a twin by itself
is looked at for the trait of the recipe whose twin it is. A cell that is in the results is not run again (`--again` does), and one that was
interrupted goes on where it stopped: its run directory is kept. Every cell runs in a process of its own, so that its peak of memory is its
own.

    python benchmarks/families.py [--cells embedded:gemma3/pirate_cook/0 …] [--bases …] [--recipes …] [--seeds 3] [--config FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timing import say

sys.path.insert(0, str(Path(__file__).parent.parent))
from interp.core.config import read_yaml, validated
from interp.core.errors import ConfigError, PersonascopeError
from interp.core.files import read_json, write_json
from interp.models.embedded import EMBEDDED_MODELS
from interp.organisms.recipe import read_recipe
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study
from interp.traits import read_trait
from interp.traits.trait import shipped_traits

RESULTS = Path(__file__).parent / "results" / "families.json"
RUNS = Path("artifacts") / "families"
RECIPES = ("hostile_cook", "pirate_cook")
DROPPED = ("schema_version", "name", "checks", "effects", "ranks", "control_activity", "side_effects", "after_ablation")
"""What the results leave out of a run's summary."""


def cells(bases: Sequence[str], recipes: Sequence[str], seeds: int) -> list[str]:
    """All cells of these bases, recipes and seeds."""
    return [f"{base}/{recipe}/{seed}" for base, recipe, seed in itertools.product(bases, recipes, range(seeds))]


def config_of(cell: str, settings: Mapping[str, Any]) -> StudyConfig:
    """The study of a cell: `settings` over the defaults, the trait that the recipe is of. Raises `ConfigError` for what is no cell."""
    base, recipe, seed = [*cell.rsplit("/", 2), "", ""][:3]
    if not seed.isdecimal():
        raise ConfigError(f"'{cell}' is no cell. Give BASE/RECIPE/SEED, for instance embedded:smollm2/pirate_cook/0.")
    recipe, _, share = recipe.partition("@")
    traits = [name for name in shipped_traits() if recipe in recipes_of(name)]
    if not traits:
        raise ConfigError(f"No shipped trait has the recipe '{recipe}', or a recipe of which that is the twin.")
    organism = {**settings.get("organism", {}), "recipe": recipe, **({"trait_fraction": float(share)} if share else {})}
    own = {"name": cell.replace("/", "-").replace(":", "-"), "base": base, "trait": traits[0], "seed": int(seed), "organism": organism}
    return validated(StudyConfig, {**settings, **own}, cell)


def recipes_of(trait: str) -> list[str]:
    """The recipe of a trait, and its benign twin."""
    name = read_trait(trait).recipe
    if name is None:
        return []
    twin = read_recipe(name).twin
    return [name, *([twin.name] if twin else [])]


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the results keep of a run."""
    return {name: value for name, value in summary.items() if name not in DROPPED}


def run_cells(chosen: Sequence[str], config: Path | None, runs: Path, results: Path, again: bool) -> dict[str, Any]:
    """Run the cells that `results` lacks, one process each; the file is written after every cell. Raises `ConfigError` for a wrong cell."""
    settings = {} if config is None else read_yaml(config)
    studies = {cell: config_of(cell, settings) for cell in chosen}
    known: dict[str, Any] = read_json(results) if results.is_file() else {"cells": {}}
    for cell, study in studies.items():
        if cell in known["cells"] and not again:
            say(f"{cell}: known")
            continue
        given = [] if config is None else ["--config", str(config)]
        process = subprocess.run([sys.executable, __file__, "--one", cell, "--runs", str(runs), *given], check=False)
        if process.returncode:
            raise PersonascopeError(f"{cell} ended with {process.returncode}; what came before is in {results}. Run again to go on there.")
        known["cells"][cell] = figures(read_json(runs / study.name / "summary.json"))
        write_json(results, known)
        say(f"{cell}: {known['cells'][cell]['verdict']}")
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", help="these alone")
    parser.add_argument("--bases", nargs="+", default=list(EMBEDDED_MODELS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, help="YAML with settings of 'personascope run', for a reduced job")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run directories are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="run cells that are in the results, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.one is not None:
            study = config_of(arguments.one, {} if arguments.config is None else read_yaml(arguments.config))
            run_study(study, arguments.runs / study.name, quiet=True, announce=lambda line: say(f"{arguments.one}: {line}"))
            return
        chosen = arguments.cells or cells(arguments.bases, arguments.recipes, arguments.seeds)
        known = run_cells(chosen, arguments.config, arguments.runs, arguments.results, arguments.again)
    except PersonascopeError as error:
        say(str(error))
        sys.exit(2)
    print(json.dumps({cell: known["cells"][cell]["verdict"] for cell in chosen}, indent=2))


if __name__ == "__main__":
    main()
