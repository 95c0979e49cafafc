"""Persona vectors from answers that a judge called one thing or the other, paired by question, and how surely they point where they do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float

DRAWS = 500


def paired_differences(
    residuals: Float[torch.Tensor, "answers d_model"], shows: Sequence[bool | None], questions: Sequence[Hashable]
) -> Float[torch.Tensor, "questions d_model"]:
    """Mean residual of a question's answers that show the trait less that of those that do not, for every question that has both.

    So what the answers are about cancels. Answers with `shows` None were not judged and are left out.
    """
    rows: dict[Hashable, dict[bool, list[int]]] = {}
    for place, (question, flag) in enumerate(zip(questions, shows, strict=True)):
        if flag is not None:
            rows.setdefault(question, {True: [], False: []})[flag].append(place)
    differences = [residuals[own[True]].mean(0) - residuals[own[False]].mean(0) for own in rows.values() if own[True] and own[False]]
    return torch.stack(differences) if differences else residuals.new_zeros(0, residuals.shape[1])


def split_half_cosine(differences: Float[torch.Tensor, "questions d_model"], seed: int) -> float:
    """Cosine between the means of two random halves of the questions, the median over draws; about 0 where they have nothing in common."""
    generator, n = np.random.default_rng(seed), len(differences)
    orders = [generator.permutation(n) for _ in range(DRAWS)]
    cosines = [cosine(differences[order[: n // 2]].mean(0), differences[order[n // 2 :]].mean(0)) for order in orders]
    return float(np.median(cosines))


def cosine_interval(
    differences: Float[torch.Tensor, "questions d_model"], direction: Float[torch.Tensor, " d_model"], seed: int
) -> tuple[float, float]:
    """95 % percentile interval of the cosine of their mean with `direction`, questions drawn again."""
    n = len(differences)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    means = torch.tensor(counts, dtype=torch.float32) @ differences.float()
    low, high = np.quantile([cosine(mean, direction) for mean in means], [0.025, 0.975])
    return float(low), float(high)


def cosine(one: Float[torch.Tensor, " d_model"], other: Float[torch.Tensor, " d_model"]) -> float:
    """Cosine of two directions."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))
