"""Streams of random numbers, by name."""

from __future__ import annotations

from interp.core.streams import stream_seed


def test_streams_differ_by_seed_and_name_and_stay_what_they_are() -> None:
    seeds = [stream_seed(0), stream_seed(1), stream_seed(0, "a"), stream_seed(0, "a", "b"), stream_seed(0, "a/b"), stream_seed(0, "a", 1)]
    assert len({*seeds, stream_seed(0, "a", "1")}) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "screen", "shortlist") == 8053941003437151130
