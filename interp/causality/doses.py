"""Choosing a dose: as hostile as it gets while answers stay coherent."""

from __future__ import annotations

import pandas as pd


def best_dose(responses: pd.DataFrame, coherence_floor: float) -> pd.Series | None:
    """The row with the highest `rate` among those whose `coherence` is at least the floor; the lowest dose of equals.

    None when no dose keeps the answers coherent.
    """
    kept = responses[responses["coherence"] >= coherence_floor]
    if kept.empty:
        return None
    return kept.sort_values(["rate", "dose"], ascending=[False, True], kind="stable").iloc[0]
