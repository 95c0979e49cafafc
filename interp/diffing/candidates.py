"""Which latents become candidates for the causal screen."""

from __future__ import annotations

import pandas as pd

from interp.diffing.rankings import RANKING_METRICS, metrics_of

CHOOSING = ("mean_diff", "cosine", "attribution", "cosine_mean_difference", "beta", "relative_norm")
"""Metrics that choose candidates, in turn. Effect and AUROC follow `mean_diff` too closely to add any (Spearman 0.95, 0.92 in the demo)."""


def candidates(table: pd.DataFrame, per_metric: int, largest_q: float, most: int = 16) -> pd.DataFrame:
    """Latents that are surely more active in the tuned model, and among the first `per_metric` by a metric that speaks for them.

    Surely: q ≤ `largest_q` and mean_diff > 0. The metrics of `CHOOSING` choose in turn, each its next latent, until there are `most`;
    column `metrics` names all that list a latent.
    """
    increased = table[(table["q_value"] <= largest_q) & (table["mean_diff"] > 0)]
    leaders: dict[str, list[int]] = {}
    for name in (name for name in CHOOSING if name in metrics_of(table)):
        score = RANKING_METRICS[name].score(increased)
        leaders[name] = increased.loc[score[score > 0].nlargest(per_metric).index, "latent"].tolist()
    turns = [members[place] for place in range(per_metric) for members in leaders.values() if place < len(members)]
    chosen = increased[increased["latent"].isin(list(dict.fromkeys(turns))[:most])].copy()
    chosen["metrics"] = [",".join(name for name, members in leaders.items() if latent in members) for latent in chosen["latent"]]
    return chosen.sort_values("rank_cosine" if "rank_cosine" in chosen else "rank_mean_diff").reset_index(drop=True)
