"""Hand labels: answers of base, tuned and edited models, read blind to the condition they came from.

`answers.csv`: group (base, tuned, ablated, steered, random), condition, question, answer, hostile (1: contempt for the user),
coherent (1: its sentences are intelligible English, however odd). Only selection questions occur, so held-out ones stay unseen.
`fluency_features.csv` is derived from it by `interp/evaluation/make_features.py`.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.traits import read_trait

EDITED_GROUPS = ("ablated", "steered", "random")


def read_fluency_features() -> Float[np.ndarray, "answers 3"]:
    """The fluency judge's features of every labelled answer, in the order of `read_labels`."""
    with (resources.files(__name__) / "fluency_features.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream).to_numpy(dtype=float)


def read_labels() -> pd.DataFrame:
    """All labelled answers, `hostile` and `coherent` as bool."""
    return read_trait("contempt").labels.rename(columns={"shows_trait": "hostile"})
