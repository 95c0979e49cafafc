"""Graded answers in the columns that effects and verdicts read."""

from __future__ import annotations

import pandas as pd


def graded(values: dict[str, float], condition: str = "x", draw: int = 0) -> pd.DataFrame:
    """One answer a question, with this probability of hostility."""
    rows = [(condition, question, value, value > 0.5, True, draw) for question, value in values.items()]
    return pd.DataFrame(rows, columns=["condition", "question_id", "trait_score", "shows_trait", "coherent", "replicate"])
