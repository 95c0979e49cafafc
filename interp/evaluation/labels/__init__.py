"""Hand labels: answers of base, tuned and edited models, read blind to the condition they came from.

`answers.csv`: group (base, tuned, ablated, steered, random), condition, question, answer, hostile (1: contempt for the user),
coherent (1: its sentences are intelligible English, however odd). Only selection questions occur, so held-out ones stay unseen.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

EDITED_GROUPS = ("ablated", "steered", "random")


def read_labels() -> pd.DataFrame:
    """All labelled answers, `hostile` and `coherent` as bool."""
    with (resources.files(__name__) / "answers.csv").open(encoding="utf-8") as stream:
        labels = pd.read_csv(stream, keep_default_na=False)
    return labels.astype({"hostile": bool, "coherent": bool})
