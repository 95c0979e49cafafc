"""How far every judge that needs no network agrees with the hand labels, by kind of model, and how fast judgements are found
again: `python benchmarks/judges.py [--json]`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import say

from interp.core.files import write_json
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.judges.opening import OFFLINE
from interp.evaluation.panel import open_panel
from interp.traits import DEFAULT_TRAIT, read_trait

KEPT = 10_000
GROUPS = ("base", "tuned", "ablated", "steered", "random", "all")
LEAST_AUROC = 0.95


class Instant:
    """A judge that takes no time, so that what is measured is the file."""

    name = identity = "instant"
    shows_above = coherent_above = 50.0

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """By length."""
        return [Judgement(float(len(answer) % 101), 90.0) for answer in answers]


def agreement() -> list[dict[str, Any]]:
    """A row a judge and group."""
    rows, trait = [], read_trait(DEFAULT_TRAIT)
    for spec in (name for name in OFFLINE if name != "rule" or trait.judge.rule):
        say(f"judge {spec}")
        begun = time.perf_counter()
        found = open_panel(trait, spec).agreement()
        for group in found["groups"]:
            rows.append({"judge": spec, **group})
            say(f"  {group['group']}: AUROC {group['auroc']}, right {group['accuracy']}, kappa {group['kappa']}")
        say(f"  {time.perf_counter() - begun:.0f} s")
    return rows


def reload_seconds() -> dict[str, float]:
    """Seconds to make and keep 10,000 judgements, and to find them again in a new connection."""
    questions, answers = [f"Question {n % 60}?" for n in range(KEPT)], [f"Answer {n}: {'word ' * 40}" for n in range(KEPT)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judgements.sqlite"
        begun = time.perf_counter()
        first = JudgementCache(path).judged(Instant(), questions, answers)
        kept = time.perf_counter()
        assert JudgementCache(path).judged(Instant(), questions, answers) == first
        return {"keep": kept - begun, "reload": time.perf_counter() - kept}


def main() -> None:
    """Measure, write results/judges.json, and say which bars hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "judges.json")
    given = parser.parse_args()
    found = {"cache": {"judgements": KEPT, **reload_seconds()}, "agreement": agreement()}
    write_json(given.out, found)
    both = [row for row in found["agreement"] if row["judge"] == OFFLINE[0] and row["auroc"] is not None]
    holds = {f"AUROC on {row['group']} >= {LEAST_AUROC}": row["auroc"] >= LEAST_AUROC for row in both}
    holds |= {f"{KEPT} judgements found again in 2 s": found["cache"]["reload"] <= 2.0}
    if given.json:
        print(json.dumps(found, indent=2))
    for bar, held in holds.items():
        say(f"{'holds' if held else 'FAILS'}: {bar}")


if __name__ == "__main__":
    main()
