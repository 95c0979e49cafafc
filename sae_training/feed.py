"""Mixed batches of residuals from blocks on disk, in memory or read live, in bounded memory and exactly resumable.

Every pass visits the blocks in a new random order, a few (a *group*) at a time; the rows of a group are permuted together. The
groups' rows, one group after the other and pass after pass, make one endless stream that is cut into batches, so every row is dealt
out once a pass. A batch's rows are gathered from the blocks by index; no block is ever joined with another or permuted whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Int

from interp.core.errors import TrainingError
from interp.core.tensors import all_finite

Block = dict[str, Float[torch.Tensor, "rows n_models d_in"]]
_REMEDY = "Give the residuals and settings that it was made with, or train again from the start."


class Source(Protocol):
    """Rows in blocks, as an `ActivationStore` has them; block i is a pure function of i, so that a position is just numbers."""

    hook_points: tuple[str, ...]
    n_models: int
    d_in: int
    n_blocks: int
    background: bool
    """Whether reading a block in a thread is worth it."""

    @property
    def n_rows(self) -> int | None:
        """None where it is not known before reading."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that the rows and their division into blocks depend on."""
        ...

    def block(self, index: int) -> Block:
        """Rows of block `index` by hook point; row r of all of them belongs to the same token."""
        ...


class MemorySource:
    """Residuals that are in memory; its blocks are views."""

    background = False

    def __init__(self, residuals: Mapping[str, Float[torch.Tensor, "rows n_models d_in"]], block_rows: int = 65_536) -> None:
        """Raises `TrainingError` for shapes that do not go together and for values that are not finite."""
        if not residuals:
            raise TrainingError("There are no residuals to train on. Give those of at least one hook point.")
        self.hook_points = tuple(residuals)
        shape = tuple(residuals[self.hook_points[0]].shape)
        if block_rows < 1:
            raise TrainingError(f"block_rows is {block_rows}. Give at least 1.")
        for name, tensor in residuals.items():
            if tensor.ndim != 3 or tuple(tensor.shape) != shape:
                raise TrainingError(f"Residuals at {name} have shape {tuple(tensor.shape)}. Give [rows, n_models, d_in], alike for all.")
            if not all_finite(tensor):
                raise TrainingError(f"Residuals at {name} hold values that are not finite. Capture them in float32.")
        rows, self.n_models, self.d_in = shape
        self.n_rows: int | None = rows
        self.n_blocks = -(-rows // block_rows)
        self.block_rows, self.residuals = block_rows, dict(residuals)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the residuals themselves."""
        digest = hashlib.sha256(repr((self.hook_points, self.n_rows, self.n_models, self.d_in, self.block_rows)).encode())
        for index in range(self.n_blocks):
            for tensor in self.block(index).values():
                digest.update(str(tensor.dtype).encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def block(self, index: int) -> Block:
        """Views of the block's rows."""
        return {name: tensor[index * self.block_rows : (index + 1) * self.block_rows] for name, tensor in self.residuals.items()}


@dataclass(frozen=True)
class Position:
    """Where in the stream the next batch begins. Plain numbers: keep it with `dataclasses.asdict`."""

    passes: int = 0
    """Passes finished."""
    group: int = 0
    """Groups finished in this pass."""
    row: int = 0
    """Rows dealt out of this group, in its permuted order."""


@dataclass(frozen=True)
class _Group:
    """A group in memory: its blocks, and its rows in the order in which they are dealt out."""

    blocks: list[Block]
    starts: Int[torch.Tensor, " blocks"]
    """Index in the group of each block's first row."""
    order: Int[torch.Tensor, " rows"]

    def gather(self, start: int, stop: int, out: Mapping[str, torch.Tensor], at: int) -> None:
        """Put rows `start` to `stop` of the order into `out`, from its row `at` on."""
        rows = self.order[start:stop]
        block_of = torch.searchsorted(self.starts, rows, right=True) - 1
        for index, block in enumerate(self.blocks):
            places = (block_of == index).nonzero()[:, 0]
            if len(places):
                wanted = rows[places] - self.starts[index]
                for name, tensor in block.items():
                    out[name].index_copy_(0, (places + at).to(tensor.device), tensor.index_select(0, wanted.to(tensor.device)))


class Feed:
    """Deals out batches of a source's rows, truly mixed, for ever."""

    def __init__(self, source: Source, batch_rows: int, seed: int, group: int = 4, prefetch: bool = True) -> None:
        """`group` blocks are mixed with each other; with `prefetch` a thread reads the next group meanwhile (two in memory),
        where the source says that this is worth it.

        Raises `TrainingError` for a source with fewer rows than a batch.
        """
        for name, value in (("batch_rows", batch_rows), ("group", group)):
            if value < 1:
                raise TrainingError(f"{name} of the feed is {value}. Give at least 1.")
        if source.n_blocks < 1 or source.n_rows == 0:
            raise TrainingError("There is nothing to train on: the source of residuals is empty. Give more text.")
        if source.n_rows is not None and source.n_rows < batch_rows:
            raise _too_few(source.n_rows, batch_rows)
        self.source, self.batch_rows, self.seed, self.group = source, batch_rows, seed, group
        self.prefetch = prefetch and source.background

    @property
    def groups_per_pass(self) -> int:
        """Groups that a pass consists of."""
        return -(-self.source.n_blocks // self.group)

    def batches(self, position: Position | None = None, rank: int = 0, world: int = 1) -> Generator[tuple[Block, Position], None, None]:
        """Batches from `position` on, each with the position after it; resuming there gives the very same further batches.

        A batch is `[batch_rows, n_models, d_in]` by hook point, in the source's dtype. Of `world` ranks each walks the same batches
        and gets its own contiguous part of every one. Closing the iterator stops its thread. Raises `TrainingError` for a
        position that the source does not have, for batches that `world` does not divide, and for a source that turns out to hold
        too few rows; what the source raises passes through.
        """
        position = position or Position()
        if not 0 <= rank < world:
            raise TrainingError(f"There is no rank {rank} of {world}. Ranks count from 0.")
        if self.batch_rows % world:
            raise TrainingError(f"{self.batch_rows} rows a batch cannot be dealt out to {world} processes alike. Give a multiple.")
        if min(astuple(position)) < 0 or position.group >= self.groups_per_pass:
            raise TrainingError(f"{position} lies outside the residuals ({self.groups_per_pass} groups a pass). {_REMEDY}")
        return self._deal(position, rank, world)

    def _deal(self, position: Position, rank: int, world: int) -> Generator[tuple[Block, Position], None, None]:
        share = self.batch_rows // world
        mine = range(rank * share, (rank + 1) * share)
        batch, filled, row = {}, 0, position.row
        pass_rows = 0 if position.group == 0 else self.batch_rows  # unknown where the pass was begun elsewhere
        with closing(self._groups(replace(position, row=0))) as groups:
            for here, group in groups:
                rows = len(group.order)
                if row > rows:
                    raise TrainingError(f"{position} lies outside the residuals (the group has {rows} rows). {_REMEDY}")
                pass_rows += rows
                while row < rows:
                    if not filled:
                        batch = {name: tensor.new_empty(share, *tensor.shape[1:]) for name, tensor in group.blocks[0].items()}
                    taken = min(self.batch_rows - filled, rows - row)
                    # This rank's part of the `taken` rows.
                    first, last = max(filled, mine.start), min(filled + taken, mine.stop)
                    if first < last:
                        group.gather(row + first - filled, row + last - filled, batch, first - mine.start)
                    filled, row = filled + taken, row + taken
                    if filled == self.batch_rows:
                        filled = 0
                        yield batch, self._after(here) if row == rows else replace(here, row=row)
                        batch = {}
                del group  # two groups at most: the next one, and the one that the thread reads
                row = 0
                if here.group + 1 == self.groups_per_pass:
                    if pass_rows < self.batch_rows:
                        raise _too_few(pass_rows, self.batch_rows)
                    pass_rows = 0

    def _after(self, position: Position) -> Position:
        """Begin of the next group."""
        last = position.group + 1 == self.groups_per_pass
        return Position(position.passes + 1) if last else Position(position.passes, position.group + 1)

    def _groups(self, here: Position) -> Generator[tuple[Position, _Group], None, None]:
        """The groups in order, each with where it begins; one is read ahead by a thread, whose errors are raised when it is its turn."""
        stop = threading.Event()
        pool = ThreadPoolExecutor(1, thread_name_prefix="feed") if self.prefetch else None
        ahead = pool.submit(self._load, here, stop) if pool else None
        try:
            while True:
                group, ahead = ahead.result() if ahead else self._load(here, stop), None
                after = self._after(here)
                ahead = pool.submit(self._load, after, stop) if pool else None
                yield here, group
                del group
                here = after
        finally:
            stop.set()
            if pool:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, position: Position, stop: threading.Event) -> _Group:
        """The group at a position: its blocks, read, and the order of its rows. `stop` ends the reading early."""
        order = torch.randperm(self.source.n_blocks, generator=self._generator("blocks", position.passes))
        blocks: list[Block] = []
        for index in order[position.group * self.group : (position.group + 1) * self.group].tolist():
            if stop.is_set():
                break
            blocks.append(self._checked(index, self.source.block(index)))
        starts = torch.tensor([0, *(len(block[self.source.hook_points[0]]) for block in blocks)]).cumsum(0)
        generator = self._generator("rows", position.passes, position.group)
        return _Group(blocks, starts[:-1], torch.randperm(int(starts[-1]), generator=generator))

    def _checked(self, index: int, block: Block) -> Block:
        source = self.source
        shapes = {tuple(tensor.shape) for tensor in block.values()}
        if set(block) != set(source.hook_points) or len(shapes) != 1 or next(iter(shapes))[1:] != (source.n_models, source.d_in):
            found = {name: tuple(tensor.shape) for name, tensor in block.items()}
            raise TrainingError(
                f"Block {index} of the residuals holds {found}, expected "
                f"[rows, {source.n_models}, {source.d_in}] at {', '.join(source.hook_points)}. Capture them again."
            )
        return block

    def _generator(self, *purpose: str | int) -> torch.Generator:
        digest = hashlib.sha256(repr((self.seed, *purpose)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _too_few(rows: int, batch_rows: int) -> TrainingError:
    return TrainingError(f"{rows} rows of residuals cannot fill a batch of {batch_rows}. Give more text, or make the batch smaller.")
