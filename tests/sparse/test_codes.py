"""Sparse codes against their dense matrix: by token, by latent, and values of latents looked up."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.sparse import Codes, cpu, of_latents

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)


@SAMPLED
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=12), latents=st.integers(1, 9), seed=st.integers(0, 2**20))
def test_entries_by_latent_keep_the_order_of_tokens(counts: list[int], latents: int, seed: int) -> None:
    entries = torch.randint(latents, (sum(counts),), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    codes = Codes(torch.ones(len(entries)), entries, torch.tensor([0, *itertools.accumulate(counts)]), latents)
    by_latent = codes.by_latent(cpu.KERNELS.by_latent)
    assert torch.equal(by_latent.order, entries.sort(stable=True).indices)
    assert by_latent.starts.diff().tolist() == torch.bincount(entries, minlength=latents).tolist()
    assert codes.by_latent(cpu.KERNELS.by_latent) is by_latent
    assert codes.tokens.tolist() == [token for token, count in enumerate(counts) for _ in range(count)]


@SAMPLED
@given(tokens=st.integers(1, 12), latents=st.integers(1, 12), seed=st.integers(0, 2**20))
def test_codes_are_what_their_dense_matrix_says(tokens: int, latents: int, seed: int) -> None:
    matrix = torch.randn(tokens, latents, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix[matrix.abs() < 0.8] = 0
    active = matrix != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.long), active.sum(1).cumsum(0)])
    values = matrix[active].requires_grad_()
    codes = Codes(values, active.nonzero()[:, 1].int(), starts, latents)
    assert torch.equal(codes.dense(), matrix)
    torch.testing.assert_close(codes.sums(), matrix.sum(0))
    assert torch.equal(codes.counts(), (matrix > 0).sum(0))
    assert torch.equal(codes.with_values(values * 2).dense(), matrix * 2)
    kept = codes.keep(values > 0)
    assert torch.equal(kept.dense(), matrix.clamp(min=0))
    assert kept.row_starts[-1] == len(kept.values) == len(kept.latents)
    pull = torch.arange(tokens * latents, dtype=torch.float64).view(tokens, latents)
    (grad,) = torch.autograd.grad((kept.dense() * pull).sum() + codes.sums().sum(), values)
    torch.testing.assert_close(grad, torch.where(matrix > 0, pull + 1, torch.ones_like(pull))[active])


def test_values_of_latents_have_the_gradient_of_indexing_and_repeat_to_the_byte() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randint(50, (100_000,), generator=generator).int()
    pull = torch.randn(100_000, generator=generator)
    codes = Codes(pull, latents, torch.arange(0, 100_001, 50), 50)
    per_latent = torch.randn(50, generator=generator, requires_grad=True)
    ours = [torch.autograd.grad((of_latents(per_latent, codes) * pull).sum(), per_latent)[0] for _ in range(5)]
    true = torch.autograd.grad((per_latent.double()[latents.long()] * pull.double()).sum(), per_latent)[0]
    torch.testing.assert_close(ours[0], true, atol=1e-3, rtol=1e-4)
    assert all(torch.equal(ours[0], other) for other in ours[1:])
