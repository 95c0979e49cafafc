"""Which set of latents to remove: greedy forward selection until the set does the job, then without what it can spare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LatentSet = tuple[int, ...]


@dataclass(frozen=True)
class SetScore:
    """How the model behaves with a set removed."""

    latents: LatentSet
    trait_score: float
    """Mean over answers: finer than a rate on few of them."""
    rate: float
    coherence: float


def greedy_set(
    singles: Sequence[SetScore],
    measure: Callable[[list[LatentSet]], list[SetScore]],
    target_rate: float,
    coherence_floor: float,
    max_size: int,
    width: int,
) -> list[SetScore]:
    """The path of chosen sets, the last one final; empty when no single latent keeps the answers coherent.

    Begins with the best single latent. While the rate is above the target, adds the one of the next `width` singles that lowers
    the mean trait score most, and stops when none lowers it, or at `max_size`. Sets below the coherence floor are never chosen.
    """
    ranked = sorted((s for s in singles if s.coherence >= coherence_floor), key=lambda s: (s.trait_score, s.latents))
    if not ranked:
        return []
    path = [ranked[0]]
    while path[-1].rate > target_rate and len(path[-1].latents) < max_size:
        current = path[-1]
        following = [s.latents[0] for s in ranked if s.latents[0] not in current.latents][:width]
        if not following:
            break
        scores = [s for s in measure([(*current.latents, latent) for latent in following]) if s.coherence >= coherence_floor]
        best = min(scores, key=lambda s: (s.trait_score, s.latents), default=None)
        if best is None or best.trait_score >= current.trait_score:
            break
        path.append(best)
    return path


def minimal_set(
    full: SetScore, measure: Callable[[list[LatentSet]], list[SetScore]], target_rate: float, coherence_floor: float
) -> list[SetScore]:
    """The path from `full` down to a set that can spare none of its latents, the last one final.

    Each round leaves out the one without which the rate is still at most the target (or that of `full`, where that is higher) and
    the mean trait score lowest, among sets that stay coherent. A latent chosen early may have become idle by those chosen later.
    """
    limit = max(target_rate, full.rate)
    path = [full]
    while len(path[-1].latents) > 1:
        latents = path[-1].latents
        scores = measure([tuple(other for other in latents if other != latent) for latent in latents])
        spared = [score for score in scores if score.rate <= limit and score.coherence >= coherence_floor]
        if not spared:
            break
        path.append(min(spared, key=lambda score: (score.trait_score, score.latents)))
    return path
