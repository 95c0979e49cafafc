"""Finished runs of several seeds, made by hand, and the folder that holds what they say together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.core.files import write_json, write_parquet
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.seed_summary import FailedSeed, FinishedSeed, rates_by_seed, seeds_summary
from interp.studies.persona.seeds import SEEDS_FILE, SEEDS_TABLE, SeedsResult


def hand_made(seed: int, hits: list[list[int]], **summary: Any) -> FinishedSeed:
    """A run with one condition: for each question a list of answers."""
    rows = [
        {"condition": "tuned", "question_id": q, "shows_trait": bool(hit), "coherent": True} for q, own in enumerate(hits) for hit in own
    ]
    rate = {"role": "baseline", "title": "Tuned", "rate": float(np.mean(hits)), "low": 0.0, "high": 1.0, "n": len(rows), "unscored": 0}
    known = {
        "name": "x", "trait": {"shown": "rude"}, "base": "b", "versions": {}, "verdict": "causes", "carrier": "latents", "half_point": 4.0,
        "removal": {"kind": "project_out", "strength": 1.0}, "hook_point": "h", "rates": {"tuned": {**rate, "coherence": 1.0}},
    }  # fmt: skip
    return FinishedSeed(seed, known | summary, pd.DataFrame(rows))


def seeds_result(folder: Path, word: str = "rude", failed: bool = True) -> SeedsResult:
    """What two seeds left in `folder`, and one that failed; `word` is the trait's."""
    about = {"trait": {"shown": word}, "finding": "It is so.", "persona_latents": [1, 2], "steering_latents": []}
    runs = [hand_made(0, [[1, 1], [1, 0]], **about), hand_made(1, [[1, 0], [0, 0]], **about)]
    chance = {"value": 0.8, "chance": 0.3, "chance_high": 0.4, "p": 0.001}
    pair = {"seeds": [0, 1], "comparable": True, "any_latent": chance, "chosen_latent": chance, "shared": 1, "shared_by_chance": 0.01,
            "cosines": {"mean difference": 0.9}, "chance_cosine": 0.2}  # fmt: skip
    lost = [FailedSeed(2, "It broke.", "personascope demo --seed 2")] if failed else []
    summary = seeds_summary(runs, lost, StudyConfig(tuned="there")) | {"agreement": [pair, dict.fromkeys(pair) | {"seeds": [1, 2]}]}
    rates = rates_by_seed(runs)
    write_json(folder / SEEDS_FILE, summary)
    write_parquet(folder / SEEDS_TABLE, rates)
    return SeedsResult(folder, summary, rates)
