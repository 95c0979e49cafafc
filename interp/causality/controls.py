"""Controls: what any such edit does, so that a found latent can be told from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from interp.core.errors import EditError


def equally_active(
    table: pd.DataFrame, latents: Sequence[int], draws: int, seed: int, excluded: Collection[int] = (), pool: int = 20
) -> list[list[int]]:
    """`draws` times as many other latents, each at random among those nearest to its own in mean activation on either model's answers.

    No latent is drawn twice, nor one of `latents` or `excluded`, so that draws are independent; each has the `pool` nearest that are
    left to come from, or as many as there are draws. `table` has the columns latent, mean_base, mean_tuned. Raises `EditError` when
    the dictionary has too few latents.
    """
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1).sort_index()
    left = activity.drop(index=list({*latents, *excluded}))
    if len(left) < draws * len(latents):
        raise EditError(
            f"The dictionary has {len(left)} other latents, and {draws} draws of {len(latents)} are to be controls. "
            "Use a larger one, or fewer draws."
        )
    generator = np.random.default_rng(seed)
    columns: list[list[int]] = []
    for latent in latents:
        nearest = (left - activity[latent]).abs().sort_values(kind="stable").index[: max(pool, draws)]
        columns.append([int(other) for other in generator.permutation(nearest.to_numpy())[:draws]])
        left = left.drop(index=columns[-1])
    return [list(draw) for draw in zip(*columns, strict=True)]


def relative_activity(table: pd.DataFrame, latents: Sequence[int], draws: Sequence[Sequence[int]]) -> float:
    """How active the draws of `equally_active` are: the median of their summed mean activation over that of `latents`.

    A latent that is far more active than all others has no equals; then this is far below 1. NaN for latents that never fire.
    """
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    own = float(activity[list(latents)].sum())
    return float(np.median([activity[list(draw)].sum() for draw in draws])) / own if own else float("nan")


def parts_of(questions: Sequence[str], draws: int, full_draws: int, parts: int) -> list[tuple[str, ...]]:
    """The questions that each draw of a control is asked: the first `full_draws` all of them, the others one of `parts` in turn.

    Many directions, each asked a little, tell more of what random directions do than a few asked everything.
    """
    parts = min(parts, len(questions))
    everything = tuple(questions)
    return [everything if draw < full_draws else tuple(questions[(draw - full_draws) % parts :: parts]) for draw in range(draws)]
