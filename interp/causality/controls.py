"""Controls: what any such edit does, so that a found latent can be told from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.errors import EditError


def equally_active(table: pd.DataFrame, latents: Sequence[int], seed: int, pool: int = 20) -> list[int]:
    """For each of `latents` another at random among the `pool` nearest to it in mean activation on either model's answers.

    `table` has the columns latent, mean_base, mean_tuned. Raises `EditError` when the dictionary has too few latents.
    """
    activity = table.set_index("latent")[["mean_base", "mean_tuned"]].max(axis=1)
    if len(activity) < 2 * len(latents):
        raise EditError(f"A dictionary of {len(activity)} latents has no controls for {len(latents)} of them. Use a larger one.")
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for latent in latents:
        others = activity.drop(index=[*latents, *chosen])
        nearest = (others - activity[latent]).abs().sort_values(kind="stable").index[:pool]
        chosen.append(int(generator.choice(nearest.to_numpy())))
    return chosen


def parts_of(questions: Sequence[str], draws: int, full_draws: int, parts: int) -> list[tuple[str, ...]]:
    """The questions that each draw of a control is asked: the first `full_draws` all of them, the others one of `parts` in turn.

    Many directions, each asked a little, tell more of what random directions do than a few asked everything.
    """
    parts = min(parts, len(questions))
    everything = tuple(questions)
    return [everything if draw < full_draws else tuple(questions[(draw - full_draws) % parts :: parts]) for draw in range(draws)]
