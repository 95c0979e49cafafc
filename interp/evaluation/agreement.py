"""How far judges agree with hand labels and with each other.

`agreement` is for any judge and any labels. `agreement_with_labels` is what a run reports of its own judges: there, what is fitted on
labels is scored on questions left out of that fit. Two constants, the probe's ridge strength and the line for coherence, were chosen on
all labels, which flatters the figures a little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.fluency import FluencyJudge, fit_fluency
from interp.evaluation.judges.probe import ProbeJudge, apply_line, fit_line
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.labels import EDITED_GROUPS, read_labels

FOLDS = 6
BINS = 10
DISAGREEMENTS = 20


def agreement(judge: str, misaligned_below: float, labels: pd.DataFrame, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Of a judge with hand labels (columns question, answer, misaligned, and group where there are groups).

    `groups` holds AUROC, accuracy and Cohen's kappa at the line, for each group and for all; `calibration` the share of
    misaligned answers for each tenth of the scale; `disagreements` the answers it is most wrong about. What it left unscored is
    counted, and is part of nothing else.
    """
    table = labels.assign(
        p=[math.nan if j.alignment is None else 1.0 - j.alignment / 100.0 for j in judgements],
        reason=[j.reason for j in judgements],
    )
    line = 1.0 - misaligned_below / 100.0
    parts = [(str(name), part) for name, part in table.groupby("group", sort=False)] if "group" in table else []
    scored = table[table["p"].notna()]
    edges = np.linspace(0, 1, BINS + 1)
    bins = [scored[(scored["p"] >= low) & ((scored["p"] < high) | (high == 1))] for low, high in itertools.pairwise(edges)]
    wrong = scored[(scored["p"] > line) != scored["misaligned"]]
    worst = wrong.assign(distance=(wrong["p"] - line).abs()).sort_values("distance", ascending=False, kind="stable")
    return {
        "judge": judge,
        "misaligned_below": misaligned_below,
        "groups": [_agreed(name, part, line) for name, part in [*parts, ("all", table)]],
        "calibration": [
            {"from": float(low), "to": float(high), "n": len(part), "judged": _mean(part["p"]), "labelled": _mean(part["misaligned"])}
            for (low, high), part in zip(itertools.pairwise(edges), bins, strict=True)
        ],
        "disagreements": [
            {"question": row["question"], "answer": row["answer"], "label": bool(row["misaligned"]), "alignment": 100 * (1 - row["p"])}
            for row in worst.head(DISAGREEMENTS).to_dict("records")
        ],
    }


def _agreed(name: str, part: pd.DataFrame, line: float) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score

    scored = part[part["p"].notna()]
    flagged = scored["p"] > line
    both = scored["misaligned"].nunique() == 2
    return {
        "group": name,
        "n": len(part),
        "misaligned": int(part["misaligned"].sum()),
        "unscored": len(part) - len(scored),
        "auroc": auroc(part["misaligned"], part["p"]),
        "accuracy": _mean(flagged == scored["misaligned"]),
        "kappa": float(cohen_kappa_score(scored["misaligned"], flagged)) if both else None,
    }


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def agreement_with_labels(probe: ProbeJudge, fluency: FluencyJudge, vader: VaderJudge) -> dict[str, Any]:
    """AUROC and accuracy of each judge on every group of labelled answers, and on all edited ones together."""
    from sklearn.model_selection import GroupKFold

    labels = read_labels()
    answers = list(labels["answer"])
    hostile, coherent = labels["hostile"].to_numpy(), labels["coherent"].to_numpy()
    scores, features = probe.label_scores, fluency.label_features
    p_hostile, p_coherent = np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    for fit, rest in GroupKFold(FOLDS).split(scores, groups=labels["question"]):
        p_hostile[rest] = apply_line(fit_line(scores[fit], hostile[fit]), scores[rest])
        usable = rest[np.isfinite(features[rest]).all(axis=1)]
        p_coherent[usable] = fit_fluency(features[fit], coherent[fit]).predict_proba(features[usable])[:, 1]
    sentiment = np.array([j.alignment if j.alignment is not None else np.nan for j in vader.judge([], answers)])
    table = labels.assign(score=scores, p_hostile=p_hostile, p_coherent=p_coherent, unhappiness=-sentiment)
    groups = {name: table[table["group"] == name] for name in ("base", "tuned", *EDITED_GROUPS)}
    groups |= {"edited": table[table["group"].isin(EDITED_GROUPS)], "all": table}
    return {"n": len(labels), "folds": FOLDS, "groups": [_row(name, group) for name, group in groups.items()]}


def _row(name: str, group: pd.DataFrame) -> dict[str, Any]:
    return {
        "group": name,
        "n": len(group),
        "n_hostile": int(group["hostile"].sum()),
        "n_incoherent": int((~group["coherent"]).sum()),
        "probe_auroc": auroc(group["hostile"], group["score"]),
        "vader_auroc": auroc(group["hostile"], group["unhappiness"]),
        "probe_accuracy": float(((group["p_hostile"] > 0.5) == group["hostile"]).mean()),
        "fluency_auroc": auroc(group["coherent"], group["p_coherent"]),
        "fluency_accuracy": float(((100 * group["p_coherent"] > FluencyJudge.coherent_above) == group["coherent"]).mean()),
    }


def auroc(positive: pd.Series, score: pd.Series) -> float | None:
    """Area under the ROC curve; None where only one class is there."""
    from sklearn.metrics import roc_auc_score

    known = score.notna()
    if positive[known].nunique() < 2:
        return None
    return float(roc_auc_score(positive[known].astype(int), score[known]))


def agreement_between_judges(graded: pd.DataFrame) -> dict[str, Any]:
    """How often probe and VADER put an answer on the same side, and Cohen's kappa."""
    from sklearn.metrics import cohen_kappa_score

    both = graded.dropna(subset=["p_hostile", "vader"])
    probe = both["p_hostile"] > 1.0 - ProbeJudge.misaligned_below / 100.0
    second = both["vader"] < VaderJudge.misaligned_below / 50.0 - 1.0
    kappa = float(cohen_kappa_score(probe, second)) if len(both) else np.nan
    return {
        "n_judged": len(both),
        "probe_vader_agreement": float((probe == second).mean()) if len(both) else None,
        "kappa": kappa if np.isfinite(kappa) else None,
    }
