"""After an ablation: did the behaviour find another way? Which other latents moved once the first were blocked.

Third-party audits of published edits found the behaviour re-routed through other latents; so the edited model is diffed again.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd


def rerouting(before: pd.DataFrame, after: pd.DataFrame, removed: Collection[int], largest_q: float) -> pd.DataFrame:
    """Latents that rose surely above the base in the ablated model, and more than they had in the tuned one, strongest first.

    `before` and `after` are latent tables (columns latent, mean_diff, mean_diff_low, mean_diff_high, q_value) of tuned against base and of
    ablated against base; `removed` latents are left out. A latent counts when its q-value after is at most `largest_q` and the
    interval of its mean_diff after lies above that before. Columns: latent, mean_diff_before, mean_diff_after, low_after, high_after,
    q_after, and the cosines and attribution that `after` has: one that turns up here and points along the persona is a way round.
    """
    joined = before[["latent", "mean_diff", "mean_diff_high"]].merge(after, on="latent", suffixes=("", "_after")).set_index("latent")
    moved = joined[
        ~joined.index.isin(list(removed))
        & (joined["q_value"] <= largest_q)
        & (joined["mean_diff_after"] > 0)
        & (joined["mean_diff_low"] > joined["mean_diff_high"])
    ]
    columns = {
        "mean_diff": "mean_diff_before",
        "mean_diff_after": "mean_diff_after",
        "mean_diff_low": "low_after",
        "mean_diff_high_after": "high_after",
        "q_value": "q_after",
    }
    kept = [name for name in ("cosine_persona", "cosine_mean_difference", "attribution") if name in moved]
    table = moved[[*columns, *kept]].rename(columns=columns)
    return table.sort_values("mean_diff_after", ascending=False, kind="stable").reset_index()
