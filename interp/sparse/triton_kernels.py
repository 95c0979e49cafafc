"""Triton kernels for CUDA: each program sums one row, or a stretch of its columns, in a fixed order. Nothing is added atomically.

A tile is a few entries × a stretch of columns; every entry's row is loaded on its own, so as many loads are in flight as the
tile has entries. Programs of one stretch of columns run side by side (the first axis of a grid is walked first): that stretch of
the weights, 64 MiB for 131,072 latents, stays for the most part in the L2 cache, and a row that several tokens use comes from
memory about once.
Offsets are 64-bit: latents × d_in passes 2³¹.
"""

import triton
import triton.language as tl


@triton.jit
def gather_sum(
    values: tl.tensor,
    latents: tl.tensor,
    starts: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    d_in: tl.constexpr,
    entries_each: tl.constexpr,
    columns_each: tl.constexpr,
    sum_type: tl.constexpr,
) -> None:
    """A token's sum of value × weight row. Grid: tokens × stretches of columns."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * columns_each + tl.arange(0, columns_each)
    inside = columns < d_in
    end = tl.load(starts + token + 1)
    total = tl.zeros([entries_each, columns_each], sum_type)
    for first in range(tl.load(starts + token), end, entries_each):
        entries = first + tl.arange(0, entries_each)
        there = entries < end
        latent = tl.load(latents + entries, there, other=0).to(tl.int64)
        value = tl.load(values + entries, there, other=0).to(sum_type)
        tile = tl.load(weight + latent[:, None] * d_in + columns[None, :], there[:, None] & inside[None, :], other=0)
        total += value[:, None] * tile.to(sum_type)
    tl.store(out + token * d_in + columns, tl.sum(total, 0).to(out.dtype.element_ty), inside)


@triton.jit
def gather_dot(
    rows: tl.tensor,
    latents: tl.tensor,
    starts: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    d_in: tl.constexpr,
    entries_each: tl.constexpr,
    columns_each: tl.constexpr,
    sum_type: tl.constexpr,
) -> None:
    """The products of a token's row and the weight rows of its entries. Grid: tokens."""
    token = tl.program_id(0).to(tl.int64)
    end = tl.load(starts + token + 1)
    for first in range(tl.load(starts + token), end, entries_each):
        entries = first + tl.arange(0, entries_each)
        there = entries < end
        latent = tl.load(latents + entries, there, other=0).to(tl.int64)
        total = tl.zeros([entries_each, columns_each], sum_type)
        for column in range(0, d_in, columns_each):
            columns = column + tl.arange(0, columns_each)
            inside = columns < d_in
            row = tl.load(rows + token * d_in + columns, inside, other=0).to(sum_type)
            tile = tl.load(weight + latent[:, None] * d_in + columns[None, :], there[:, None] & inside[None, :], other=0)
            total += row[None, :] * tile.to(sum_type)
        tl.store(out + entries, tl.sum(total, 1).to(out.dtype.element_ty), there)


@triton.jit
def scatter_outer(
    values: tl.tensor,
    tokens: tl.tensor,
    starts: tl.tensor,
    rows: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    d_in: tl.constexpr,
    entries_each: tl.constexpr,
    columns_each: tl.constexpr,
    sum_type: tl.constexpr,
) -> None:
    """A latent's sum of value × (token's row − shift), and of its values; entries by latent. Grid: latents × stretches of columns."""
    latent = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * columns_each + tl.arange(0, columns_each)
    inside = columns < d_in
    end = tl.load(starts + latent + 1)
    total = tl.zeros([entries_each, columns_each], sum_type)
    of_values = tl.zeros([entries_each], sum_type)
    for first in range(tl.load(starts + latent), end, entries_each):
        entries = first + tl.arange(0, entries_each)
        there = entries < end
        token = tl.load(tokens + entries, there, other=0)
        value = tl.load(values + entries, there, other=0).to(sum_type)
        tile = tl.load(rows + token[:, None] * d_in + columns[None, :], there[:, None] & inside[None, :], other=0).to(sum_type)
        if shift is not None:
            tile -= tl.load(shift + columns, inside, other=0).to(sum_type)[None, :]
        total += value[:, None] * tile
        of_values += value
    tl.store(out + latent * d_in + columns, tl.sum(total, 0).to(out.dtype.element_ty), inside)
    tl.store(sums + latent, tl.sum(of_values, 0).to(sums.dtype.element_ty), tl.program_id(1) == 0)
