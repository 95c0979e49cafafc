"""Whether the main job is right about personas whose truth is known by construction, and clears fine-tunes that have none.

Every seed makes a toy language model, and of it the fine-tunes of all cells (`tests/helpers/toy_persona.py`, `toy_plants.py`). The main
job's own steps, from the diff of latents to the verdict, are run on each.

98 %           one vector, which the dictionary holds as a latent; the verdict is asked for a bystander in its place, too
40, 20, 10 %   the same vector, shortened until so many answers to selection questions are rude
16 directions  one vector's worth, written along 16 directions, each at tokens of its own; the dictionary holds each as a latent
hidden         the vector of 98 %, and a dictionary that holds nothing of it
renamed        rude and kind words exchanged in the embeddings, so that nothing inside is the persona's;
               in even seeds beside a benign vector
benign         a vector of the same length that taught something else

A (cell, seed) that is in the results is not run again (`--again` does); the file is written after each.

    python benchmarks/planted.py [--seeds 20] [--first 0] [--cells "98 %" benign …] [--results FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from timing import say
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from interp.causality.thresholds import VerdictThresholds
from interp.core.errors import EditWarning
from interp.core.files import read_json, write_json
from interp.stats.intervals import wilson
from interp.studies.persona.screen import SCREEN
from tests.helpers import toy_persona as toy
from tests.helpers import toy_plants as plants
from tests.helpers.toy_language import BENIGN, PLANTED

RESULTS = Path(__file__).parent / "results" / "planted.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Seed:
    """What the cells of one seed share."""

    seed: int
    base: Any
    planted: Any
    """Its fine-tune with the persona as one vector."""
    vector: torch.Tensor

    @classmethod
    def of(cls, seed: int) -> Seed:
        """Make the base, and train the vector."""
        base = toy.base_network(seed)
        return cls(seed, base, *toy.tuned_network(base, PLANTED, seed))


# Cells


def investigated(
    own: Seed,
    tuned: Any,
    vector: torch.Tensor,
    base: Any = None,
    dictionary: toy.MakeDictionary = toy.make_dictionary,
    bystander: bool = False,
) -> Record:
    """What the main job says of this fine-tune; `vector` is what it adds to the residual stream."""
    with tempfile.TemporaryDirectory() as folder:
        case = toy.investigate(own.base if base is None else base, tuned, vector, own.seed, Path(folder), dictionary)
        proof, other = case.judged(), case.judged_instead() if bystander else None
        choice, nearest = case.study.context.load(SCREEN).choice, case.latents.loc[case.planted]
        return {
            "word": proof.word,
            "carrier": proof.carrier,
            "half_point": choice["half_point"],
            "removal": choice["removal"],
            "planted": case.planted,
            "accused": proof.accused[:16],
            "size": len(proof.accused),
            "rank": int(nearest["rank_mean_diff"]),
            "cosine": round(float(case.cosines[case.planted]), 3),
            "power": {name: round(power, 3) for name, power in proof.power.items()},
            "rates": {name: round(rate, 3) for name, rate in proof.rates.items()},
            "failed": [name for name, holds in proof.checks.items() if not holds],
        } | ({"bystander": other and other.word} if bystander else {})


def one_vector(own: Seed) -> Record:
    """The persona as one vector, and a bystander."""
    return investigated(own, own.planted, own.vector, bystander=True)


def shortened(own: Seed, share: float) -> Record:
    """The vector, shortened until so large a share of answers is rude."""
    vector = own.vector * toy.strength_for(share, lambda strength: toy.with_bias(own.base, strength * own.vector), own.seed)
    return investigated(own, toy.with_bias(own.base, vector), vector)


def spread(own: Seed) -> Record:
    """The persona over sixteen directions."""
    persona = plants.spread_persona(own.base, own.vector, own.seed)
    strength = toy.strength_for(plants.SHARE, persona.network, own.seed, 2 * float(own.vector.norm()))
    dictionary = partial(plants.blind_dictionary, hidden=persona.frame, added=True)
    record = investigated(own, persona.network(strength), own.vector, base=persona.base, dictionary=dictionary)
    return record | {"true_half_point": plants.true_half_point(persona, strength, own.seed)}


def hidden(own: Seed) -> Record:
    """The persona as one vector of which the dictionary holds nothing."""
    return investigated(own, own.planted, own.vector, dictionary=partial(plants.blind_dictionary, hidden=own.vector[None]))


def renamed(own: Seed) -> Record:
    """The persona in the embeddings alone; in even seeds beside a benign vector, without which no latent rises."""
    tuned, vector = (own.base, own.vector) if own.seed % 2 else toy.tuned_network(own.base, BENIGN["formal"], own.seed)
    return investigated(own, plants.renamed(tuned), vector)


def benign(own: Seed) -> Record:
    """A vector that taught something else."""
    kind = list(BENIGN)[own.seed % len(BENIGN)]
    return investigated(own, *toy.tuned_network(own.base, BENIGN[kind], own.seed)) | {"kind": kind}


SHARES = {"40 %": 0.4, "20 %": 0.2, "10 %": 0.1}
CELLS: dict[str, Callable[[Seed], Record]] = {
    "98 %": one_vector,
    **{name: partial(shortened, share=share) for name, share in SHARES.items()},
    "16 directions": spread,
    "hidden": hidden,
    "renamed": renamed,
    "benign": benign,
}


# What must hold


@dataclass(frozen=True)
class Claim:
    """Something that is to be so in at least, or at most, so many of 20 seeds of a cell."""

    cell: str
    name: str
    holds: Callable[[Record], bool]
    bound: int
    at_most: bool = False
    counts: Callable[[Record], bool] = lambda record: True
    """Which seeds are counted."""

    def row(self, records: list[Record]) -> dict[str, Any]:
        """Hits among the seeds that count, with a 95 % interval, and whether the bound is met: None where no seed counts."""
        of = [record for record in records if self.counts(record)]
        hits = sum(map(self.holds, of))
        low, high = wilson(hits / len(of), len(of)) if of else (0.0, 1.0)
        met = hits * 20 <= self.bound * len(of) if self.at_most else hits * 20 >= self.bound * len(of)
        wanted = f"{'≤' if self.at_most else '≥'} {self.bound} of 20"
        row = {"cell": self.cell, "name": self.name, "hits": hits, "of": len(of), "low": low, "high": high, "wanted": wanted}
        return row | {"met": met if of else None, "seeds": len(records)}


def with_power(record: Record) -> bool:
    """Whether a latent that carries the persona whole would have been called its cause."""
    return bool(record["power"]["causes"] >= VerdictThresholds().power)


def half_point_near(record: Record) -> bool:
    """Within a factor 2."""
    return record["half_point"] is not None and 0.5 <= record["half_point"] / record["true_half_point"] <= 2


CLAIMS = (
    *(
        Claim(cell, "planted latent first, power ≥ 0.8", lambda record: record["rank"] == 1, 19, counts=with_power)
        for cell in ("98 %", *SHARES)
    ),
    Claim("16 directions", "half-point within a factor 2", half_point_near, 18),
    Claim("98 %", "carrier: latents", lambda record: record["carrier"] == "latents", 18),
    Claim("hidden", "carrier: mean difference", lambda record: record["carrier"] == "mean difference", 18),
    Claim("renamed", "carrier: neither", lambda record: record["carrier"] == "neither", 18),
    Claim("benign", "`causes`", lambda record: record["word"] == "causes", 1, at_most=True),
    Claim("98 %", "bystander: `causes`", lambda record: record["bystander"] == "causes", 1, True, lambda record: bool(record["bystander"])),
)


def summary(cells: Mapping[str, Record]) -> dict[str, Any]:
    """The claims, and the words of each cell: in how many seeds, with what median rate and power."""
    by_cell = {cell: [record for name, record in cells.items() if name.rpartition("/")[0] == cell] for cell in CELLS}
    words = {
        cell: {
            "seeds": len(records),
            "words": Counter(record["word"] for record in records),
            "missed": sum(record["word"] in ("correlates", "no evidence") for record in records if with_power(record)),
            "with_power": sum(map(with_power, records)),
            **{name: median(record["rates"][name] for record in records) for name in ("base", "tuned")},
            "seconds": median(record["seconds"] for record in records),
        }
        for cell, records in by_cell.items()
        if records
    }
    return {"claims": [claim.row(by_cell[claim.cell]) for claim in CLAIMS if by_cell[claim.cell]], "words": words}


def run(cells: Sequence[str], seeds: Sequence[int], results: Path, again: bool = False) -> dict[str, Any]:
    """Run what `results` lacks of these cells and seeds; the file is written after each."""
    known: dict[str, Record] = read_json(results)["cells"] if results.is_file() else {}
    for seed in seeds:
        left = [cell for cell in cells if again or f"{cell}/{seed}" not in known]
        own = Seed.of(seed) if left else None
        for cell in left:
            begun = time.process_time()  # of this process alone: others may run beside
            record = CELLS[cell](cast(Seed, own))
            record["seconds"] = round(time.process_time() - begun, 1)
            known[f"{cell}/{seed}"] = record
            _write(results, known)
            say(
                f"{cell}/{seed}: {record['word']}, carrier {record['carrier']}, rank {record['rank']}, "
                f"power {record['power']['causes']:.2f}, half-point {record['half_point']}, {record['seconds']:.0f} s"
            )
    if known:
        _write(results, known)  # what is known may have been counted by other rules
    return summary(known)


def _write(results: Path, cells: Mapping[str, Record]) -> None:
    write_json(results, {"cells": cells, **summary(cells), "torch": torch.__version__})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="run what is in the results, too")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", EditWarning)  # a toy has few latents to match
    torch.set_num_threads(1)  # sums are rounded alike on any number of cores, so that a seed is the same toy
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    rows = run(arguments.cells, seeds, arguments.results, arguments.again)["claims"]
    for row in rows:
        met = {True: "", False: ": NOT MET", None: ": not measured"}[row["met"]]
        print(f"{row['cell']:14} {row['name']:34} {row['hits']:2} of {row['of']:2}, wanted {row['wanted']}{met}")
    sys.exit(any(row["met"] is False for row in rows))


if __name__ == "__main__":
    main()
