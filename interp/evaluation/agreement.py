"""How far judges agree with hand labels and with each other.

Of a judge that was fitted on labels, what counts is its word on questions left out of the fit: `fitting.py` stores that beside the
weights. Two constants, the probe's ridge strength and the threshold of coherence, were chosen on all labels, which flatters the figures
a little.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.stats.agreement import auroc, cohen_kappa

EDITED = ("ablated", "steered", "random")
"""Groups of labelled answers that come from edited models; together they are the row `edited`."""
BINS = 10
DISAGREEMENTS = 20

Label = Literal["shows_trait", "coherent"]


def agreement(
    judge: str, threshold: float, labels: pd.DataFrame, scores: Sequence[float | None], label: Label = "shows_trait"
) -> dict[str, Any]:
    """Of a judge's scores (0 to 100) with hand labels (columns question, answer, `label`, and group where there are groups).

    `groups` holds AUROC, accuracy and Cohen's kappa at the threshold, for each group and for all; `calibration` the share of answers so
    labelled for each tenth of the scale; `disagreements` the answers it is most wrong about. What it left unscored (None) is counted,
    and is part of nothing else.
    """
    table = labels.assign(score=np.array(scores, dtype=float))
    scored = table[table["score"].notna()]
    edges = np.linspace(0, 100, BINS + 1)
    bins = [scored[(scored["score"] >= low) & ((scored["score"] < high) | (high == 100))] for low, high in itertools.pairwise(edges)]
    wrong = scored[(scored["score"] > threshold) != scored[label]]
    worst = wrong.assign(distance=(wrong["score"] - threshold).abs()).sort_values("distance", ascending=False, kind="stable")
    return {
        "judge": judge,
        "label": label,
        "threshold": threshold,
        "groups": [_row(name, part, threshold, label) for name, part in _parts(table)],
        "calibration": [
            {"from": float(low), "to": float(high), "n": len(part), "judged": _mean(part["score"]), "labelled": _mean(100 * part[label])}
            for (low, high), part in zip(itertools.pairwise(edges), bins, strict=True)
        ],
        "disagreements": [
            {"question": row["question"], "answer": row["answer"], "label": bool(row[label]), "score": row["score"]}
            for row in worst.head(DISAGREEMENTS).to_dict("records")
        ],
    }


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The groups, all edited ones together, and everything."""
    parts = [(str(name), part) for name, part in table.groupby("group", sort=False)] if "group" in table else []
    edited = [part for name, part in parts if name in EDITED]
    return [*parts, *([("edited", pd.concat(edited))] if len(edited) > 1 else []), ("all", table)]


def _row(name: str, part: pd.DataFrame, threshold: float, label: Label) -> dict[str, Any]:
    scored = part[part["score"].notna()]
    judged = scored["score"] > threshold
    return {
        "group": name,
        "n": len(part),
        "labelled": int(part[label].sum()),
        "unscored": len(part) - len(scored),
        "auroc": auroc(part[label].to_numpy(dtype=bool), part["score"].to_numpy()),
        "accuracy": _mean(judged == scored[label]),
        "kappa": cohen_kappa(scored[label].to_numpy(), judged.to_numpy()) if scored[label].nunique() == 2 else None,
    }


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def agreement_between(answers: pd.DataFrame, shows_above: float, second_above: float) -> dict[str, Any]:
    """How often two judges (columns trait_score, second_score) put an answer on the same side, and Cohen's kappa."""
    both = answers.dropna(subset=["trait_score", "second_score"])
    first, second = both["trait_score"] > shows_above, both["second_score"] > second_above
    return {"n": len(both), "agreement": _mean(first == second), "kappa": cohen_kappa(first.to_numpy(), second.to_numpy())}
