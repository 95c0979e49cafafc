"""Whether the main job finds a persona whose direction is known, at any rate of the trait, and finds none where there is none.

Every seed makes a toy language model, and of it a fine-tune with a persona and a benign one (`tests/helpers/toy_persona.py`). The main
job's own steps, from the diff of latents to the verdict, are run on both. In the planted model the verdict is asked for a second time, with
a latent that is more active in the fine-tune but is not the persona's.

Then the planted vector is shortened until 40, 20 and 10 % of the answers to selection questions are rude. How many held-out questions and
answers the verdict takes is planned from the rates on selection questions (`plan_samples`): at most 72 questions and 6,000 answers.

    python benchmarks/planted.py [--seeds 20] [--first 0] [--rates 0.4,0.2,0.1] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timing import say
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from interp.causality.power import plan_samples
from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from tests.helpers import toy_persona as toy
from tests.helpers.toy_language import BENIGN, PLANTED, Manner

CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE, UNDECIDED = WORDS = "causes", "contributes", "correlates", "no evidence", "undecided"
QUESTIONS, BUDGET = 72, 6000
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


def weak(base: Any, added: torch.Tensor, share: float, seed: int) -> dict[str, Any]:
    """The planted fine-tune of `base`, weakened until `share` of its answers are rude, from the plan to the verdict."""
    tuned, vector = toy.weakened(base, added, share, seed)
    rates = toy.trait_share(base, seed), toy.trait_share(tuned, seed)
    plan = plan_samples(*rates, QUESTIONS, BUDGET, EvidenceConfig(), VerdictThresholds())
    with tempfile.TemporaryDirectory() as folder:
        case = toy.investigate(base, tuned, vector, seed, Path(folder), plan)
        proof, nearest = case.judged(), case.latents.loc[case.planted]
        return {
            "word": proof.word,
            "plan": asdict(plan),
            "selection_rates": rates,
            "accused": proof.accused,
            "planted_latent": case.planted,
            "cosine": float(case.cosines[case.planted]),
            "rank": int(nearest["rank_mean_diff"]),
            "power": proof.power,
            "rates": proof.rates,
            "checks": proof.checks,
        }


def weak_counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """By rate: how many fine-tunes, how many of them with power 0.8 by the plan, and of those the planted latent first, and every word."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for rate, found in row["weak"].items():
            own = counts.setdefault(rate, {"fine_tunes": 0, "with_power": 0, "first": 0, **dict.fromkeys(WORDS, 0), "undecided_else": 0})
            own["fine_tunes"] += 1
            if found["plan"]["suffices"]:
                own["with_power"] += 1
                own["first"] += found["rank"] == 1
                own[found["word"]] += 1
            else:
                own["undecided_else"] += found["word"] == UNDECIDED
    return counts


def measure(seeds: int, first: int, shares: Sequence[float]) -> dict[str, Any]:
    """All seeds; a base serves its planted and its benign fine-tune."""
    kinds = list(BENIGN)
    rows: list[dict[str, Any]] = []
    for seed in range(first, first + seeds):
        begun = time.perf_counter()
        base = toy.base_network(seed)
        row = {"seed": seed, "base_seconds": time.perf_counter() - begun, "benign_kind": kinds[seed % len(kinds)]}
        row |= {"planted": one(base, PLANTED, seed, True), "benign": one(base, BENIGN[row["benign_kind"]], seed, False)}
        vector = toy.tuned_network(base, PLANTED, seed)[1] if shares else None
        row["weak"] = {f"{share:g}": weak(base, vector, share, seed) for share in shares}
        rows.append(row)
        found, other = row["planted"], row["planted"]["bystander"]
        say(
            f"  seed {seed}: planted {found['word']}, rank {found['ranks']['mean_diff']}, cosine {found['cosine']:.2f}; "
            f"bystander {other['word'] if other else 'none'}; {row['benign_kind']}: {row['benign']['word']}; "
            + "".join(
                f"{share} {own['word']}, rank {own['rank']}, power {own['plan']['power']:.2f}; " for share, own in row["weak"].items()
            )
            + f"{time.perf_counter() - begun:.0f} s"
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
        "weak": weak_counts(rows),
        "bounds_met": {
            name: seeds - counts[name] <= (20 - LEAST[name]) * seeds / 20 if name in LEAST else counts[name] <= MOST[name] * seeds / 20
            for name in [*LEAST, *MOST]
        }
        | {f"{rate}: latent ranked first": 20 * own["first"] >= 19 * own["with_power"] for rate, own in weak_counts(rows).items()},
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
    parser.add_argument("--rates", default="0.4,0.2,0.1", help="rates of the weakened fine-tunes; '' for none")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # sums are rounded alike on any number of cores, so that a seed is the same toy
    shares = [float(share) for share in arguments.rates.split(",") if share]
    result = measure(arguments.seeds, arguments.first, shares)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for name, count in result["counts"].items():
            of = result["bystanders"] if name.startswith("bystander") else arguments.seeds
            wanted = {True: "as wanted", False: "NOT AS WANTED", None: ""}[result["bounds_met"].get(name)]
            print(f"{name:30} {count:3} of {of}   {wanted}")
        for rate, own in result["weak"].items():
            print(f"planted at {rate}: {', '.join(f'{name} {count}' for name, count in own.items())}")
    sys.exit(not all(result["bounds_met"].values()))


if __name__ == "__main__":
    main()
