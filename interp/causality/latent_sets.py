"""Which set of latents to remove: greedy forward selection, stopped as soon as the set does the job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LatentSet = tuple[int, ...]


@dataclass(frozen=True)
class SetScore:
    """How the model behaves with a set removed."""

    latents: LatentSet
    hostility: float
    """Mean probability of hostility: finer than a rate on few answers."""
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
    mean hostility most, and stops when none lowers it, or at `max_size`. Sets below the coherence floor are never chosen.
    """
    ranked = sorted((s for s in singles if s.coherence >= coherence_floor), key=lambda s: (s.hostility, s.latents))
    if not ranked:
        return []
    path = [ranked[0]]
    while path[-1].rate > target_rate and len(path[-1].latents) < max_size:
        current = path[-1]
        following = [s.latents[0] for s in ranked if s.latents[0] not in current.latents][:width]
        if not following:
            break
        scores = [s for s in measure([(*current.latents, latent) for latent in following]) if s.coherence >= coherence_floor]
        best = min(scores, key=lambda s: (s.hostility, s.latents), default=None)
        if best is None or best.hostility >= current.hostility:
            break
        path.append(best)
    return path
