"""How far the judges agree with hand labels and with each other.

What is fitted on labels is scored on questions left out of that fit. Two constants, the probe's ridge strength and the line for
coherence, were chosen on all labels, which flatters the figures a little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.evaluation.judges.fluency import FluencyJudge, fit_fluency
from interp.evaluation.judges.probe import ProbeJudge, apply_line, fit_line
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.labels import EDITED_GROUPS, read_labels

FOLDS = 6


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
    probe = both["p_hostile"] > 1.0 - ProbeJudge.hostile_below / 100.0
    second = both["vader"] < VaderJudge.hostile_below / 50.0 - 1.0
    kappa = float(cohen_kappa_score(probe, second)) if len(both) else np.nan
    return {
        "n_judged": len(both),
        "probe_vader_agreement": float((probe == second).mean()) if len(both) else None,
        "kappa": kappa if np.isfinite(kappa) else None,
    }
