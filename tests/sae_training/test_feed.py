"""The feed deals out every row once a pass, mixed, in bounded memory, and goes on from any position as if it had never stopped."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ActivationError, TrainingError
from interp.models.activation_store import ActivationStore, StoreWriter
from sae_training.feed import Block, Feed, MemorySource, Position

NAMES = ("first", "second")


class Blocks:
    """Blocks of given lengths; entry 0 is the row's number, entry 1 its block's. Counts the blocks that are alive."""

    hook_points = NAMES
    n_models, d_in = 2, 3
    background, fingerprint = True, "blocks"

    def __init__(self, *lengths: int, known: bool = True) -> None:
        self.lengths, self.n_blocks = lengths, len(lengths)
        self.n_rows: int | None = sum(lengths) if known else None
        self.starts = [sum(lengths[:i]) for i in range(len(lengths))]
        self.alive: list[weakref.ref[torch.Tensor]] = []
        self.most_alive = 0
        self.asked: list[int] = []

    def block(self, index: int) -> Block:
        rows = torch.zeros(self.lengths[index], 2, 3)
        rows[:, :, 0] = torch.arange(self.starts[index], self.starts[index] + self.lengths[index])[:, None]
        rows[:, :, 1] = index
        rows[:, 1, 2] = 1.0
        self.asked.append(index)
        self.alive = [ref for ref in [*self.alive, weakref.ref(rows)] if ref() is not None]
        self.most_alive = max(self.most_alive, len(self.alive))
        return {"first": rows, "second": -rows}


def take(feed: Feed, count: int, position: Position | None = None, **ranks: int) -> list[tuple[Block, Position]]:
    batches = feed.batches(position, **ranks)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def row_numbers(batches: list[tuple[Block, Position]]) -> list[int]:
    return [int(row) for batch, _position in batches for row in batch["first"][:, 0, 0]]


def same(left: list[tuple[Block, Position]], right: list[tuple[Block, Position]]) -> bool:
    return len(left) == len(right) and all(
        p == q and set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a) for (a, p), (b, q) in zip(left, right, strict=True)
    )


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(sum)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, batch=st.integers(1, 12), group=st.integers(1, 4), seed=st.integers(0, 2), prefetch=st.booleans())
def test_every_row_is_dealt_out_once_a_pass(lengths: list[int], batch: int, group: int, seed: int, prefetch: bool) -> None:
    source = Blocks(*lengths)
    rows, passes = sum(lengths), 3
    batch = min(batch, rows)
    numbers = row_numbers(take(Feed(source, batch, seed, group, prefetch), -(-rows * passes // batch)))
    for done in range(passes):
        assert sorted(numbers[done * rows : (done + 1) * rows]) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths,
    batch=st.integers(1, 12),
    group=st.integers(1, 4),
    at=st.integers(0, 40),
    known=st.booleans(),
    prefetch=st.booleans(),
)
def test_any_position_goes_on_bit_for_bit(lengths: list[int], batch: int, group: int, at: int, known: bool, prefetch: bool) -> None:
    batch = min(batch, sum(lengths))
    whole = take(Feed(Blocks(*lengths), batch, 7, group), at + 12)
    _batch, position = whole[at]
    position = Position(**json.loads(json.dumps(asdict(position))))
    resumed = take(Feed(Blocks(*lengths, known=known), batch, 7, group, prefetch), 11, position)
    assert same(resumed, whole[at + 1 :])


@settings(max_examples=30, deadline=None)
@given(lengths=lengths, share=st.integers(1, 4), world=st.integers(1, 4), group=st.integers(1, 3))
def test_ranks_get_contiguous_parts_of_the_same_batches(lengths: list[int], share: int, world: int, group: int) -> None:
    batch = share * world
    if batch > sum(lengths):
        return
    whole = take(Feed(Blocks(*lengths), batch, 3, group), 9)
    parts = [take(Feed(Blocks(*lengths), batch, 3, group), 9, rank=rank, world=world) for rank in range(world)]
    for step, (global_batch, position) in enumerate(whole):
        for name in NAMES:
            assert torch.equal(torch.cat([part[step][0][name] for part in parts]), global_batch[name])
        assert {part[step][1] for part in parts} == {position}
    after = whole[3][1]  # another number of processes goes on from the same position
    assert same(take(Feed(Blocks(*lengths), batch, 3, group), 5, after), whole[4:])


def test_a_batch_mixes_all_blocks_of_a_group_and_hook_points_stay_together() -> None:
    source = Blocks(*[300] * 8)
    batches = take(Feed(source, 100, seed=0, group=4), 24)
    assert [position.group for _batch, position in batches[:12]] == [0] * 11 + [1]
    first = {int(block) for batch, _ in batches[:12] for block in batch["first"][:, 0, 1]}
    second = {int(block) for batch, _ in batches[12:] for block in batch["first"][:, 0, 1]}
    assert len(first) == len(second) == 4
    assert first | second == set(range(8))
    for batch, _position in batches:
        counts = batch["first"][:, 0, 1].unique(return_counts=True)[1]
        assert len(counts) == 4
        assert counts.min() >= 10  # 25 expected
        assert torch.equal(batch["second"], -batch["first"])
        assert torch.equal(batch["first"][:, 1, :2], batch["first"][:, 0, :2])  # both models, the same token
        assert batch["first"].shape == (100, 2, 3)
    # No trace of the rows' own order within a batch either.
    order = batches[0][0]["first"][:, 0, 0]
    assert 30 < int((order[1:] > order[:-1]).sum()) < 70


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    numbers = row_numbers(take(Feed(Blocks(*[20] * 5), 20, seed=1, group=2), 10))
    assert numbers[:100] != numbers[100:]
    assert numbers != row_numbers(take(Feed(Blocks(*[20] * 5), 20, seed=2, group=2), 10))
    assert numbers == row_numbers(take(Feed(Blocks(*[20] * 5), 20, seed=1, group=2, prefetch=False), 10))


@pytest.mark.parametrize(("prefetch", "groups"), [(True, 2), (False, 1)])
def test_no_more_than_two_groups_are_alive(prefetch: bool, groups: int) -> None:
    source = Blocks(*[50] * 20)
    for _batch, _position in take_slowly(Feed(source, 30, 0, group=3, prefetch=prefetch), 60):
        pass
    assert len(source.asked) > 20
    assert source.most_alive <= 3 * groups
    gc.collect()
    assert not [ref for ref in source.alive if ref() is not None]


def take_slowly(feed: Feed, count: int) -> Iterator[tuple[Block, Position]]:
    """Give the thread time to read as far ahead as it would."""
    batches = feed.batches()
    for _ in range(count):
        yield next(batches)
        time.sleep(0.002)
    batches.close()


class Failing(Blocks):
    """The third reading fails."""

    def block(self, index: int) -> Block:
        if len(self.asked) == 2:
            raise ActivationError("The shard shard-00002 is missing.")
        return super().block(index)


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.mark.parametrize("prefetch", [True, False])
def test_an_error_in_reading_is_raised_where_the_batches_are_taken(prefetch: bool) -> None:
    batches = Feed(Failing(*[10] * 4), 5, 0, group=1, prefetch=prefetch).batches()
    for _ in range(4):
        next(batches)
    with pytest.raises(ActivationError, match="shard-00002 is missing"):
        next(batches)
    assert not feed_threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_closing_or_dropping_the_iterator_stops_the_thread() -> None:
    release = threading.Event()

    class Slow(Blocks):
        def block(self, index: int) -> Block:
            if len(self.asked) >= 2:
                release.wait(10)
            return super().block(index)

    source = Slow(*[10] * 30)
    feed = Feed(source, 5, 0, group=2)
    batches = feed.batches()
    next(batches)
    assert len(feed_threads()) == 1
    threading.Timer(0.05, release.set).start()
    batches.close()
    assert not feed_threads()
    assert len(source.asked) <= 3  # it ended with the block it was reading
    batches = feed.batches()
    next(batches)
    del batches
    gc.collect()
    assert not feed_threads()
    feed.batches()  # none is started before the first batch is asked for
    assert not feed_threads()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_and_memory_feed_the_rows_that_were_given(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = torch.arange(200, dtype=torch.float32)[:, None, None].expand(200, 2, 3).to(dtype)
    with StoreWriter(tmp_path, NAMES, 3, 2, str(dtype).removeprefix("torch."), shard_rows=32, shuffle_seed=0) as writer:
        writer.add({"first": rows, "second": -rows})
    memory, disk = MemorySource({"first": rows, "second": -rows}, block_rows=32), ActivationStore(tmp_path)
    for source in (memory, disk):
        assert (source.hook_points, source.n_models, source.d_in, source.n_blocks, source.n_rows) == (NAMES, 2, 3, 7, 200)
        batches = take(Feed(source, 20, 0, group=3), 10)
        assert sorted(row_numbers(batches)) == list(range(200))
        assert batches[0][0]["first"].dtype == dtype
    assert (memory.background, disk.background) == (False, True)
    assert memory.block(6)["first"].untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()  # views
    path = tmp_path / "shard-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ActivationError, match="truncated or altered"):
        take(Feed(disk, 20, 0, group=3), 10)


def test_fingerprints_tell_residuals_and_their_division_apart(tmp_path: Path) -> None:
    rows = torch.randn(20, 1, 3)
    changed = rows.clone()
    changed[7, 0, 1] += 1e-3
    made = [({"first": rows}, 8), ({"first": changed}, 8), ({"second": rows}, 8), ({"first": rows}, 9), ({"first": rows.bfloat16()}, 8)]
    prints = [MemorySource(residuals, size).fingerprint for residuals, size in made]
    assert len(set(prints)) == len(prints)
    assert MemorySource({"first": rows.clone()}, 8).fingerprint == prints[0]
    of_stores = []
    for number, (residuals, size) in enumerate(made[:2]):
        for copy in range(2):
            folder = tmp_path / f"{number}{copy}"
            with StoreWriter(folder, ["first"], 3, shard_rows=size) as writer:
                writer.add(residuals)
            of_stores.append(ActivationStore(folder).fingerprint)
    assert of_stores[0] == of_stores[1] != of_stores[2] == of_stores[3]


def test_too_little_to_train_on_is_refused() -> None:
    for source in (Blocks(), Blocks(0, 0), MemorySource({"first": torch.zeros(0, 1, 3)})):
        with pytest.raises(TrainingError, match="source of residuals is empty"):
            Feed(source, 4, 0)
    with pytest.raises(TrainingError, match=r"9 rows of residuals cannot fill a batch of 10\. Give more text"):
        Feed(Blocks(4, 5), 10, 0)
    for lengths in ((4, 5), (0, 0)):  # found out while reading
        with pytest.raises(TrainingError, match="rows of residuals cannot fill a batch of 10"):
            take(Feed(Blocks(*lengths, known=False), 10, 0), 1)
    for start in (Position(2, 1), Position(0, 1)):
        with pytest.raises(TrainingError, match="0 rows of residuals cannot fill"):
            take(Feed(Blocks(0, 0, known=False), 10, 0, group=1), 1, start)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_rows": 0}, "batch_rows of the feed is 0"),
        ({"group": 0}, "group of the feed is 0"),
        ({"rank": 2, "world": 2}, "no rank 2 of 2"),
        ({"rank": -1, "world": 2}, "no rank -1 of 2"),
        ({"world": 3}, "4 rows a batch cannot be dealt out to 3 processes alike. Give a multiple"),
        ({"position": Position(0, 2)}, r"lies outside the residuals \(2 groups a pass\)"),
        ({"position": Position(0, -1)}, "lies outside"),
        ({"position": Position(0, 0, 21)}, r"lies outside the residuals \(the group has 20 rows\)"),
    ],
)
def test_wrong_use_is_refused(settings: dict[str, Any], message: str) -> None:
    def use(batch_rows: int = 4, group: int = 2, **where: Any) -> None:
        next(Feed(Blocks(10, 10, 10, 10), batch_rows, 0, group).batches(**where))

    with pytest.raises(TrainingError, match=message):
        use(**settings)
    assert not feed_threads()


def test_residuals_that_do_not_go_together_are_refused() -> None:
    good = torch.zeros(5, 1, 3)
    for bad in (torch.zeros(4, 1, 3), torch.zeros(5, 3), torch.zeros(5, 2, 3)):
        with pytest.raises(TrainingError, match=r"Residuals at second have shape"):
            MemorySource({"first": good, "second": bad})
    with pytest.raises(TrainingError, match="at least one hook point"):
        MemorySource({})
    with pytest.raises(TrainingError, match="block_rows is 0"):
        MemorySource({"first": good}, 0)
    broken = good.clone()
    broken[2, 0, 1] = float("nan")
    with pytest.raises(TrainingError, match="at first hold values that are not finite"):
        MemorySource({"first": broken})

    class Odd(Blocks):
        def block(self, index: int) -> Block:
            return {"first": torch.zeros(5, 2, 3), "second": torch.zeros(5, 1, 3)}

    with pytest.raises(TrainingError, match=r"Block 0 of the residuals holds .*expected \[rows, 2, 3\] at first, second"):
        take(Feed(Odd(5), 4, 0), 1)
