"""Kernels for the CPU, compiled by numba: work and memory follow the active entries, apart from the pre-activations.

Tokens (or latents) are dealt to as many threads as torch uses. Every row is summed by one thread in a fixed order, so the result
does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch

from interp.models.cpu.packed_linear import apply_packed, can_pack, pack_weight
from interp.sparse.codes import ByLatent, Codes

CHUNK_ENTRIES = 2**22
"""Pre-activations made at a time: few enough to stay in the cache until the largest are found."""
TASKS_PER_THREAD = 4
GROUPS = 0.5

# No `nnan`, `ninf`: values that are not finite must come out as such, to be reported.
compiled = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


class CpuKernels:
    """See `autograd.Kernels`."""

    def preactivations(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Iterator[torch.Tensor]:
        """By oneDNN where torch has it: up to twice as fast as its default product in float32."""
        chunks = x.split(max(32, CHUNK_ENTRIES // len(weight)))
        if can_pack(weight):
            packed = pack_weight(weight)
            return (apply_packed(chunk, packed, bias) for chunk in chunks)
        return (torch.addmm(bias, chunk, weight.T) for chunk in chunks)

    def largest(self, chunk: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass for the maxima of groups; only groups that can hold one of the k largest are looked into."""
        values, latents = chunk.new_zeros(len(chunk), k), torch.zeros(len(chunk), k, dtype=torch.int32)
        _in_parallel(_largest, _even(len(chunk)), _array(chunk), _array(values), _array(latents))
        return values, latents

    def above(self, chunk: torch.Tensor, bound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Counted first, then written."""
        bounds = _array(bound.to(chunk.dtype).expand(chunk.shape[1]).contiguous())
        per_row = torch.zeros(len(chunk), dtype=torch.long)
        _in_parallel(_count_above, _even(len(chunk)), _array(chunk), bounds, _array(per_row))
        ends = per_row.cumsum(0)
        n_entries = int(ends[-1]) if len(ends) else 0
        values, latents = chunk.new_empty(n_entries), torch.empty(n_entries, dtype=torch.int32)
        _in_parallel(_write_above, _even(len(chunk)), _array(chunk), bounds, _array(ends - per_row), _array(values), _array(latents))
        return values, latents, per_row

    def by_latent(self, codes: Codes) -> ByLatent:
        """By counting."""
        starts, order = torch.zeros(codes.n_latents + 1, dtype=torch.long), torch.empty(len(codes.latents), dtype=torch.long)
        _count_sort(_array(codes.latents), _array(starts), _array(order))
        return ByLatent(order, starts)

    def gather_sum(self, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """By torch's embedding bag."""
        return torch.nn.functional.embedding_bag(
            codes.latents,
            weight.detach(),
            codes.row_starts.int(),
            per_sample_weights=codes.values.detach(),
            mode="sum",
            include_last_offset=True,
        )

    def gather_dot(self, rows: torch.Tensor, codes: Codes, weight: torch.Tensor) -> torch.Tensor:
        """See `autograd.Kernels`."""
        out = rows.new_empty(len(codes.latents))
        starts = _array(codes.row_starts)
        _in_parallel(_gather_dot, _balanced(starts), _array(rows), starts, _array(codes.latents), _array(weight), _array(out))
        return out

    def scatter_outer(self, codes: Codes, rows: torch.Tensor, shift: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
        """Latent by latent, so that every row of `out` is written once."""
        by_latent = codes.by_latent(self.by_latent)
        sums = codes.values.new_empty(codes.n_latents)
        shifted = _array(rows.new_zeros(rows.shape[1]) if shift is None else shift.to(rows.dtype))
        starts = _array(by_latent.starts)
        _in_parallel(
            _scatter_outer, _balanced(starts), _array(codes.values), _array(by_latent.order), starts, _array(codes.tokens), _array(rows),
            shifted, shift is not None, _array(out), _array(sums),
        )  # fmt: skip
        return sums


KERNELS = CpuKernels()


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().contiguous().numpy()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "sparse-ops")


def _in_parallel(kernel: Callable[..., None], edges: list[int], *arguments: Any) -> None:
    """Call `kernel(first, last, *arguments)` for every stretch between `edges`."""
    stretches = list(pairwise(edges))
    if len(stretches) == 1:
        kernel(*stretches[0], *arguments)
        return
    for future in [_pool(torch.get_num_threads()).submit(kernel, *stretch, *arguments) for stretch in stretches]:
        future.result()


def _tasks(n_rows: int) -> int:
    return max(1, min(torch.get_num_threads() * TASKS_PER_THREAD, n_rows // 8))


def _even(n_rows: int) -> list[int]:
    tasks = _tasks(n_rows)
    return [n_rows * task // tasks for task in range(tasks + 1)]


def _balanced(starts: np.ndarray[Any, Any]) -> list[int]:
    """Edges between rows such that each stretch has about as many entries and rows."""
    n_rows = len(starts) - 1
    tasks = _tasks(n_rows)
    load = starts + np.arange(n_rows + 1)
    return [0, *(int(np.searchsorted(load, load[-1] * task // tasks)) for task in range(1, tasks)), n_rows]


@compiled
def _largest(first: int, last: int, chunk: Any, values: Any, latents: Any) -> None:
    n, k = chunk.shape[1], values.shape[1]
    n_groups = min(n, max(k, 16 * int(1 + GROUPS * np.sqrt(n * k) / 16)))  # few groups rank fast, small ones are searched fast
    depth = n // n_groups  # group g holds the columns g, g + n_groups, …; the columns after the last full layer are on their own
    maxima, ranked = np.empty(n_groups, chunk.dtype), np.empty(n_groups, chunk.dtype)
    for row in range(first, last):
        x, kept, where = chunk[row], values[row], latents[row]
        for g in range(n_groups):
            maxima[g] = x[g]
        for layer in range(1, depth):
            deeper = x[layer * n_groups : (layer + 1) * n_groups]
            for g in range(n_groups):  # written so that it becomes vector instructions; `max` does not
                one, other = maxima[g], deeper[g]
                maxima[g] = other if other > one else one
        for g in range(n_groups):
            ranked[g] = maxima[g]
        bound = _kth_largest(ranked, k)  # k groups reach it, so no smaller value can be among the k largest
        found = 0
        for g in range(n_groups):
            if maxima[g] >= bound:
                for column in range(g, depth * n_groups, n_groups):
                    if x[column] >= bound:
                        found = _insert(x[column], column, kept, where, found)
        for column in range(depth * n_groups, n):
            if x[column] >= bound:
                found = _insert(x[column], column, kept, where, found)
        if found < k:  # comparisons with NaN fail: do not let zeros stand for it
            kept[found:] = np.nan


@compiled
def _insert(value: Any, column: int, kept: Any, where: Any, found: int) -> int:
    """Put `value` in its place among the `found` largest so far; of equal values the lower column comes first."""
    k = len(kept)
    place = found if found < k else k - 1
    if found == k and not _before(value, column, kept[place], where[place]):
        return found
    while place > 0 and _before(value, column, kept[place - 1], where[place - 1]):
        kept[place], where[place] = kept[place - 1], where[place - 1]
        place -= 1
    kept[place], where[place] = value, column
    return found if found == k else found + 1


@compiled
def _before(value: Any, column: int, other_value: Any, other_column: int) -> bool:
    return value > other_value or (value == other_value and column < other_column)


@compiled
def _kth_largest(numbers: Any, k: int) -> Any:
    """Hoare's selection; shuffles `numbers`."""
    low, high, wanted = 0, len(numbers) - 1, k - 1
    while low < high:
        pivot, i, j = numbers[(low + high) // 2], low, high
        while i <= j:
            while numbers[i] > pivot:
                i += 1
            while numbers[j] < pivot:
                j -= 1
            if i <= j:
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return numbers[wanted]


@compiled
def _count_above(first: int, last: int, chunk: Any, bounds: Any, per_row: Any) -> None:
    for row in range(first, last):
        x, count = chunk[row], 0
        for column in range(len(x)):
            count += x[column] > bounds[column]
        per_row[row] = count


@compiled
def _write_above(first: int, last: int, chunk: Any, bounds: Any, begins: Any, values: Any, latents: Any) -> None:
    for row in range(first, last):
        x, place = chunk[row], begins[row]
        for column in range(len(x)):
            if x[column] > bounds[column]:
                values[place], latents[place] = x[column], column
                place += 1


@compiled
def _count_sort(latents: Any, starts: Any, order: Any) -> None:
    for latent in latents:
        starts[latent + 1] += 1
    for latent in range(len(starts) - 1):
        starts[latent + 1] += starts[latent]
    place = starts[:-1].copy()
    for entry in range(len(latents)):
        order[place[latents[entry]]] = entry
        place[latents[entry]] += 1


@compiled
def _gather_dot(first: int, last: int, rows: Any, starts: Any, latents: Any, weight: Any, out: Any) -> None:
    for token in range(first, last):
        row = rows[token]
        for entry in range(starts[token], starts[token + 1]):
            direction = weight[latents[entry]]
            total = row[0] * 0
            for i in range(len(row)):
                total += row[i] * direction[i]
            out[entry] = total


@compiled
def _scatter_outer(
    first: int, last: int, values: Any, order: Any, starts: Any, tokens: Any, rows: Any, shift: Any, shifted: bool, out: Any, sums: Any
) -> None:
    for latent in range(first, last):
        target = out[latent]
        target[:] = 0
        total = values.dtype.type(0)
        for i in range(starts[latent], starts[latent + 1]):
            value, row = values[order[i]], rows[tokens[order[i]]]
            total += value
            for column in range(len(target)):
                target[column] += value * row[column]
        sums[latent] = total
        if shifted and total != 0:
            for column in range(len(target)):
                target[column] -= total * shift[column]
