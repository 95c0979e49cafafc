"""Random streams by name: every use of random numbers has its own seed, which depends on nothing but the run's seed and its name."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed, in [0, 2⁶³), of the stream that `names` name: `stream_seed(config.seed, "screen", "finalists")`.

    Equal arguments give equal seeds on every machine; streams of different names are independent.
    """
    digest = hashlib.sha256("/".join(repr(part) for part in (seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
