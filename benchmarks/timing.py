"""Times of things done in turns in one process, and a process's peak memory."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

LEAST_ROUNDS = 3


def say(line: str) -> None:
    """A line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def in_turns(
    ways: Mapping[str, Callable[[int], object]],
    rounds: int,
    warm: int = 2,
    budget: float = float("inf"),
    finish: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds that each way took in each round; every way gets the number of its call, from 0.

    Each round begins with another way, so that none always runs after the same other one. The first `warm` rounds are not counted.
    After `budget` seconds no round is begun, once there are three. `finish` waits for work that continues in the background (CUDA).
    """
    names, seconds = list(ways), {name: list[float]() for name in ways}
    begun = time.perf_counter()
    for turn in range(warm + rounds):
        if turn >= warm + LEAST_ROUNDS and time.perf_counter() - begun > budget:
            say(f"  {turn - warm} rounds of {rounds}: they take long")
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            finish()
            start = time.perf_counter()
            ways[name](turn)
            finish()
            seconds[name].append(time.perf_counter() - start)
        if turn < warm:
            say(f"  warming up {turn + 1}/{warm}: " + ", ".join(f"{name} {1e3 * times[-1]:.0f} ms" for name, times in seconds.items()))
    return {name: times[warm:] for name, times in seconds.items()}


def load() -> float:
    """How many processes wanted to run during the last minute, on average."""
    return os.getloadavg()[0]


class PeakMemory:
    """Growth of this process's resident memory since it was made; Linux alone tells it."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        self.before = _status("VmRSS")

    def growth(self) -> int:
        """Bytes at the highest point."""
        return _status("VmHWM") - self.before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
