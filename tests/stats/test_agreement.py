"""AUROC and Cohen's kappa against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from interp.stats.agreement import auroc, cohen_kappa

SAMPLED = settings(deadline=None, derandomize=True, max_examples=80)


@SAMPLED
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int]]) -> None:
    positive, score = np.array([p for p, _ in rows]), np.array([float(s) for _, s in rows])
    ones, zeros = score[positive], score[~positive]
    if not len(ones) or not len(zeros):
        assert auroc(positive, score) is None
        return
    u = stats.mannwhitneyu(ones, zeros).statistic
    assert auroc(positive, score) == pytest.approx(u / len(ones) / len(zeros))


@SAMPLED
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_kappa_is_what_sklearn_says(rows: list[tuple[bool, bool]]) -> None:
    first, second = np.array([a for a, _ in rows], dtype=bool), np.array([b for _, b in rows], dtype=bool)
    if len(set(first)) == 2:
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    elif not len(rows) or (first == second).all():
        assert cohen_kappa(first, second) is None
