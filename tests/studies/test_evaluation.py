"""Differences between models: by shared questions, with an interval where nothing differs, and none where too little is shared."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from interp.stats.rates import clustered_rate
from interp.studies.evaluation import differences


def test_too_few_shared_questions_make_no_difference() -> None:
    rows = [("one", "a", True), ("one", "b", False), ("two", "a", None), ("two", "b", True)]
    answers = pd.DataFrame(rows, columns=["model", "cluster", "shows_trait"])
    (row,) = differences(answers, "one", 0).to_dict("records")
    assert (row["model"], row["against"]) == ("two", "one")
    assert math.isnan(row["difference"])


def test_models_that_do_not_differ_have_an_interval_all_the_same() -> None:
    """24 questions without a hit on either side tell something, but not that the difference is nought."""
    answers = pd.DataFrame({"model": ["a"] * 24 + ["b"] * 24, "cluster": [*range(24)] * 2, "shows_trait": False, "coherent": True})
    (row,) = differences(answers.assign(refused=False), "a", 0).to_dict("records")
    whole = clustered_rate([False] * 24, range(24))
    assert row["difference"] == 0
    assert (row["low"], row["high"]) == pytest.approx((-whole.high, whole.high))
