"""Makes `labels/fluency_features.csv` anew after a change of the labels. Run `python -m interp.evaluation.make_features`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from interp.core.files import write_text
from interp.evaluation.judges.fluency import SCORER, fluency_features
from interp.evaluation.labels import read_labels
from interp.models.sources import open_model

COLUMNS = ("mean_logprob", "distinct_tokens", "distinct_pairs")


def main() -> None:
    """Write the features of every labelled answer, in the order of the labels."""
    scorer = open_model(SCORER, device="cpu", dtype="float32")
    features = pd.DataFrame(fluency_features(scorer, list(read_labels()["answer"])), columns=list(COLUMNS))
    target = Path(__file__).parent / "labels" / "fluency_features.csv"
    write_text(target, features.to_csv(index=False, float_format="%.5f"))


if __name__ == "__main__":
    main()
