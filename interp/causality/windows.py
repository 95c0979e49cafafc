"""At which layers a direction must be removed: the smallest window of layers that still does the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Window:
    """Layers `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def shrunk(self) -> list[Window]:
        """The window less a half, a quarter, … and one layer, at either end."""
        steps = {max(1, len(self) >> power) for power in range(1, len(self).bit_length() + 1)} if len(self) > 1 else set()
        return sorted({Window(self.first + step, self.last) for step in steps} | {Window(self.first, self.last - step) for step in steps})


@dataclass(frozen=True)
class WindowScore:
    """How the model behaves with the directions removed at a window's layers."""

    window: Window
    trait_score: float
    """Mean over answers."""
    rate: float
    coherence: float


def smallest_window(
    start: Window, measure: Callable[[list[Window]], list[WindowScore]], target_rate: float, coherence_floor: float
) -> list[WindowScore]:
    """The path from `start` to the smallest window found, the last one final; empty when `start` itself does not do the job.

    Every round measures all ways to cut this window in one call, and continues with the shortest that keeps the rate at most
    `target_rate` and the coherence at least `coherence_floor`; among equally short ones with the lowest trait score.
    """
    path: list[WindowScore] = []
    tried, windows = {start}, [start]
    while windows:  # what was tried before did not do it
        scores = [score for score in measure(windows) if score.rate <= target_rate and score.coherence >= coherence_floor]
        if not scores:
            break
        path.append(min(scores, key=lambda score: (len(score.window), score.trait_score, score.window)))
        windows = [window for window in path[-1].window.shrunk() if window not in tried]
        tried.update(windows)
    return path
