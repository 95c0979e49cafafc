"""Which latents: sets of the first 1, 2, 4, … of a ranking, and how much of the behaviour goes with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.causality.removals import Removal

MARGIN = 0.1
"""How far above the floor coherence is surely kept, and below it may be kept: a few dozen answers measure it roughly."""


@dataclass(frozen=True)
class LatentSet:
    """The first latents of a ranking."""

    ranking: str
    latents: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.latents)


def rankings(latents: pd.DataFrame, largest_q: float, norms: Sequence[float] | None = None) -> dict[str, list[int]]:
    """Orders of the latents that are surely more active in the tuned model (q ≤ `largest_q`), best first.

    `norms` are those of the decoder rows, by which activations compare; by default all alike. `mean_diff`: by rise in mean activation.
    `along_persona`: by rise times the decoder row's cosine with the persona vector, among those where it is positive: what a fine-tune
    says most often is not always what makes it say so. Left out where no persona vector was given.
    """
    length = 1.0 if norms is None else latents["latent"].map(dict(enumerate(norms)))
    rises = (latents["mean_diff"] * length)[(latents["q_value"] <= largest_q) & (latents["mean_diff"] > 0)]
    scores = {"mean_diff": rises}
    if "cosine_persona" in latents:
        along = rises * latents["cosine_persona"].loc[rises.index]
        scores["along_persona"] = along[along > 0]
    orders = {name: score.sort_values(ascending=False, kind="stable").index for name, score in scores.items() if len(score)}
    return {name: [int(latent) for latent in latents.loc[order, "latent"]] for name, order in orders.items()}


def doubling_sets(ranking: str, order: Sequence[int], largest: int) -> list[LatentSet]:
    """Sets of 1, 2, 4, … latents up to `largest`, and of all where the ranking ends before."""
    most = min(largest, len(order))
    sizes = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most} - {0})
    return [LatentSet(ranking, tuple(order[:size])) for size in sizes]


@dataclass(frozen=True)
class RemovalScore:
    """How the tuned model behaves with something removed."""

    latents: LatentSet | None
    """None: the mean difference."""
    removal: Removal
    trait_score: float
    """Mean over answers: finer than a rate on few of them."""
    rate: float
    coherence: float
    kl: float | None = None
    """What the removal costs on ordinary text, in nats a token (`SideEffects.kl`); None where it was not measured."""

    @property
    def size(self) -> int:
        """Number of latents."""
        return 0 if self.latents is None else len(self.latents)


def preferred(scores: Sequence[RemovalScore], target_rate: float, coherence_floor: float) -> list[RemovalScore]:
    """Those that keep the answers coherent, best first: coherence decides before behaviour.

    First those that bring the rate to at most `target_rate`: of them first those that surely keep the coherence, then those that just do,
    each by what they cost on ordinary text and by the number of latents that they need, then those that may, by coherence. Then all
    others by trait score. Removals without a scored answer are left out.
    """

    def order(score: RemovalScore) -> tuple[Any, ...]:
        if score.rate > target_rate:
            return (3, score.trait_score, score.size)
        if score.coherence < coherence_floor:
            return (2, -score.coherence, score.size, score.trait_score)
        return (int(score.coherence < coherence_floor + MARGIN), score.kl or 0.0, score.size, score.trait_score)

    def may_be(score: RemovalScore) -> bool:
        lenience = MARGIN if score.rate <= target_rate else 0.0
        return score.coherence >= coherence_floor - lenience and not math.isnan(score.rate)

    return sorted(filter(may_be, scores), key=order)


def half_point(sizes: Sequence[int], rates: Sequence[float], without: float) -> float | None:
    """Number of latents that carry half of the effect: `without` any the rate is this, with the first `sizes` of them `rates`.

    Half of the largest effect measured, on a line between the sizes around it (logarithmic in the size); the first size where that does
    half alone. None where removing latents lowers nothing, or a rate was not measured.
    """
    effects = [without - rate for rate in rates]
    half = max(effects, default=0.0) / 2
    if not half > 0 or any(math.isnan(effect) for effect in effects):
        return None
    place = next(i for i, effect in enumerate(effects) if effect >= half)
    if place == 0:
        return float(sizes[0])
    share = (half - effects[place - 1]) / (effects[place] - effects[place - 1])
    return math.exp(math.log(sizes[place - 1]) + share * math.log(sizes[place] / sizes[place - 1]))
