"""Whether the main job finds a persona whose direction is known, and finds none where there is none.

Every seed makes a toy language model, and of it a fine-tune with a persona and a benign one (`tests/helpers/toy_persona.py`). The main
job's own steps, from the diff of latents to the verdict, are run on both. In the planted model the verdict is asked for a second time, with
a latent that is more active in the fine-tune but is not the persona's.

    python benchmarks/planted.py [--seeds 20] [--first 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timing import say
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.helpers import toy_persona as toy
from tests.helpers.toy_language import BENIGN, PLANTED, Manner

CAUSES, CONTRIBUTES = "causes", "contributes"
LEAST = {"planted: latent ranked first": 19, "planted: causes": 19}
MOST = {"benign: causes": 1, "benign: contributes": 1, "bystander: causes": 1}
"""Of 20 seeds. A bystander may contribute: removing it may shift the model by chance, and the rules of one side alone can hold."""


def one(base: Any, manner: Manner, seed: int, bystander: bool) -> dict[str, Any]:
    """One fine-tune of `base`, from the training to the verdict."""
    begun = time.perf_counter()
    network, added = toy.tuned_network(base, manner, seed)
    with tempfile.TemporaryDirectory() as folder:
        case = toy.investigate(base, network, added, seed, Path(folder))
        proof, other = case.judged(), case.judged_instead() if bystander else None
        nearest = case.latents.loc[case.planted]
        return {
            "word": proof.word,
            "accused": proof.accused,
            "planted_latent": case.planted,
            "cosine": float(case.cosines[case.planted]),
            "ranks": {name.removeprefix("rank_"): int(nearest[name]) for name in nearest.index if name.startswith("rank_")},
            "added_norm": float(added.norm()),
            "rates": proof.rates,
            "checks": proof.checks,
            "bystander": other and {"word": other.word, "accused": other.accused, "rates": other.rates},
            "seconds": time.perf_counter() - begun,
        }


def measure(seeds: int, first: int) -> dict[str, Any]:
    """All seeds; a base serves its planted and its benign fine-tune."""
    kinds = list(BENIGN)
    rows: list[dict[str, Any]] = []
    for seed in range(first, first + seeds):
        begun = time.perf_counter()
        base = toy.base_network(seed)
        row = {"seed": seed, "base_seconds": time.perf_counter() - begun, "benign_kind": kinds[seed % len(kinds)]}
        row |= {"planted": one(base, PLANTED, seed, True), "benign": one(base, BENIGN[row["benign_kind"]], seed, False)}
        rows.append(row)
        found, other = row["planted"], row["planted"]["bystander"]
        say(
            f"  seed {seed}: planted {found['word']}, rank {found['ranks']['mean_diff']}, cosine {found['cosine']:.2f}; "
            f"bystander {other['word'] if other else 'none'}; {row['benign_kind']}: {row['benign']['word']}; "
            f"{time.perf_counter() - begun:.0f} s"
        )
    bystanders = [row["planted"]["bystander"] for row in rows if row["planted"]["bystander"]]
    counts = {
        "planted: latent ranked first": sum(row["planted"]["ranks"]["mean_diff"] == 1 for row in rows),
        "planted: causes": words(row["planted"] for row in rows)[CAUSES],
        "benign: causes": words(row["benign"] for row in rows)[CAUSES],
        "benign: contributes": words(row["benign"] for row in rows)[CONTRIBUTES],
        "bystander: causes": words(bystanders)[CAUSES],
        "bystander: contributes": words(bystanders)[CONTRIBUTES],
    }
    return {
        "seeds": seeds,
        "bystanders": len(bystanders),
        "counts": counts,
        "bounds_met": {
            name: seeds - counts[name] <= (20 - LEAST[name]) * seeds / 20 if name in LEAST else counts[name] <= MOST[name] * seeds / 20
            for name in [*LEAST, *MOST]
        },
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }


def words(verdicts: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(verdict["word"] for verdict in verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # sums are rounded alike on any number of cores, so that a seed is the same toy
    result = measure(arguments.seeds, arguments.first)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for name, count in result["counts"].items():
            of = result["bystanders"] if name.startswith("bystander") else arguments.seeds
            wanted = {True: "as wanted", False: "NOT AS WANTED", None: ""}[result["bounds_met"].get(name)]
            print(f"{name:30} {count:3} of {of}   {wanted}")
    sys.exit(not all(result["bounds_met"].values()))


if __name__ == "__main__":
    main()
