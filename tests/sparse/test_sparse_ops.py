"""Sparse operations on the CPU against plain autograd on dense matrices, in float64 unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.sparse import (
    Above,
    BatchTopK,
    Codes,
    Rule,
    TopK,
    buffers,
    cpu,
    decode,
    dense,
    encode,
)
from tests.helpers import sparse_reference as reference

SAMPLED = settings(deadline=None, derandomize=True, max_examples=150)
WAYS = {"sparse": 2.0, "crowded": -1.0}
"""Shares of active latents above which dense products take over: never, and always."""


@dataclass(frozen=True)
class Data:
    """What `encode` and `decode` take, and a random direction for every output to be differentiated along."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    centre: torch.Tensor | None
    decoder: torch.Tensor
    pull: torch.Tensor
    value_pull: torch.Tensor
    among: torch.Tensor | None = None

    @property
    def leaves(self) -> list[torch.Tensor]:
        given = [self.x, self.weight, self.bias, self.decoder]
        return given if self.centre is None else [*given, self.centre]


def data(tokens: int, d_in: int, latents: int, seed: int, dtype: torch.dtype = torch.float64, centred: bool = True) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias, centre, decoder, pull, value_pull = (
        torch.randn(*shape, generator=generator, dtype=dtype)
        for shape in ((tokens, d_in), (latents, d_in), (latents,), (d_in,), (latents, d_in), (tokens, d_in), (tokens, latents))
    )
    for leaf in (x, weight, bias, centre, decoder):
        leaf.requires_grad_()
    return Data(x, weight, bias, centre if centred else None, decoder, pull, value_pull)


def outcome(given: Data, codes: Codes, out: torch.Tensor) -> list[torch.Tensor]:
    """Dense codes, decoded rows, and the gradients of everything."""
    loss = (out * given.pull).sum() + (codes.dense() * given.value_pull).sum()
    return [codes.dense().detach(), out.detach(), *torch.autograd.grad(loss, given.leaves)]


def ours(given: Data, rule: Rule) -> list[torch.Tensor]:
    codes = encode(given.x, given.weight, given.bias, rule, given.centre, given.among)
    assert codes.latents.dtype == torch.int32
    assert codes.row_starts.dtype == torch.int64
    assert len(codes.values) == len(codes.latents) == codes.row_starts[-1]
    return outcome(given, codes, decode(codes, given.decoder))


def truth(given: Data, rule: Rule) -> list[torch.Tensor]:
    codes = reference.encode(given.x, given.weight, given.bias, rule, given.centre, given.among)
    return outcome(given, codes, reference.decode(codes, given.decoder))


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def same_bytes(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Data, Rule]:
    """Small shapes with any rule; sometimes all latents are below zero at some tokens, and sometimes a choice among few."""
    tokens, d_in, latents = draw(st.integers(1, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 70))
    seed = draw(st.integers(0, 2**20))
    given = data(tokens, d_in, latents, seed, centred=draw(st.booleans()))
    generator = torch.Generator().manual_seed(seed + 1)
    kind = draw(st.sampled_from(["topk", "batch", "above"]))
    scale = None
    if draw(st.booleans()):  # a rule's own numbers are one for each latent that it may choose: both together are for no one
        given = replace(given, among=torch.randperm(latents, generator=generator)[: draw(st.integers(1, latents))])
    elif draw(st.booleans()):
        scale = torch.rand(latents, generator=generator, dtype=torch.float64) + 0.1
    if draw(st.booleans()):
        with torch.no_grad():
            given.bias.sub_(1000)
            given.x[:: draw(st.integers(1, 3))] *= 0
    if kind == "topk":
        most = latents if given.among is None else len(given.among)
        return given, TopK(draw(st.integers(1, most) | st.just(most)), scale)
    if kind == "batch":
        return given, BatchTopK(draw(st.integers(1, 8) | st.just(10**6)), scale)
    bounds = torch.randn((), generator=generator, dtype=torch.float64) if scale is None else scale - 0.5
    return given, Above(bounds)


@pytest.mark.parametrize("way", WAYS)
@SAMPLED
@given(problem=problems())
def test_values_and_gradients_equal_the_reference(way: str, problem: tuple[Data, Rule]) -> None:
    if isinstance(problem[1], Above) and problem[0].among is not None:
        problem = replace(problem[0], among=None), problem[1]  # the reference compares all latents with the bound
    with mock.patch.object(dense, "CROWDED", WAYS[way]):
        same(ours(*problem), truth(*problem))


@pytest.mark.parametrize("rule", [TopK(4), BatchTopK(4), Above(torch.tensor(0.3))])
@pytest.mark.parametrize("way", WAYS)
def test_float32_agrees_too(way: str, rule: Rule) -> None:
    given = data(90, 24, 130, 0, torch.float32)
    with mock.patch.object(dense, "CROWDED", WAYS[way]):
        for one, other in zip(ours(given, rule), truth(given, rule), strict=True):
            assert float((one - other).norm()) <= 1e-5 * float(other.norm())


@pytest.mark.parametrize("rule", [TopK(3), BatchTopK(3), Above(torch.tensor(0.2, dtype=torch.float64))])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_equal_finite_differences(way: str, rule: Rule) -> None:
    given = data(7, 5, 11, 1)
    inputs = (given.x, given.weight, given.bias, given.centre, given.decoder)

    def both(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, centre: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        codes = encode(x, weight, bias, rule, centre)
        return torch.cat([decode(codes, decoder), codes.dense()], dim=1)

    with mock.patch.object(dense, "CROWDED", WAYS[way]):
        assert torch.autograd.gradcheck(both, inputs)


def test_data_that_asks_for_no_gradient_gets_none() -> None:
    given = data(6, 5, 9, 2)
    x, centre = given.x.detach(), given.centre.detach() if given.centre is not None else None
    decode(encode(x, given.weight, given.bias, TopK(2), centre), given.decoder).sum().backward()
    assert x.grad is None
    assert given.weight.grad is not None
    decoder = given.decoder.detach()
    codes = encode(x, given.weight, given.bias, TopK(2), centre)
    (grad,) = torch.autograd.grad(decode(codes, decoder).sum(), codes.values)
    torch.testing.assert_close(grad, decoder.sum(1)[codes.latents.long()])


@SAMPLED
@given(rows=st.integers(1, 30), columns=st.integers(1, 200), seed=st.integers(0, 2**20), fill=st.data())
def test_the_k_largest_come_in_order_and_of_equal_ones_any(rows: int, columns: int, seed: int, fill: st.DataObject) -> None:
    """Few different values, so that most are equal."""
    k = fill.draw(st.integers(1, columns))
    chunk = torch.randint(-3, 4, (rows, columns), generator=torch.Generator().manual_seed(seed)).double()
    values, latents = cpu.KERNELS.largest(chunk.clone(), k)
    assert torch.equal(values, chunk.topk(k).values)
    assert torch.equal(chunk.gather(1, latents.long()), values)
    assert all(len(set(row)) == k for row in latents.tolist())


@SAMPLED
@given(rows=st.integers(1, 30), columns=st.integers(1, 60), seed=st.integers(0, 2**20), of_each=st.booleans())
def test_what_is_above_comes_row_by_row_and_what_equals_the_bound_does_not(rows: int, columns: int, seed: int, of_each: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    chunk = torch.randint(-3, 4, (rows, columns), generator=generator).double()
    bound = torch.randint(-3, 4, (columns,) if of_each else (), generator=generator).double()
    values, latents, per_row = cpu.KERNELS.above(chunk, bound)
    mask = chunk > bound
    assert torch.equal(values, chunk[mask])
    assert torch.equal(latents.long(), mask.nonzero()[:, 1])
    assert torch.equal(per_row, mask.sum(1))


@pytest.mark.parametrize("columns", [3, 200])
def test_rows_that_are_not_numbers_neither_crash_nor_disturb_others(columns: int) -> None:
    good = data(40, 5, columns, 3)
    with torch.no_grad():
        rows = torch.arange(40)
        bad = rows % 4 == 1
        x = good.x.clone()
        x[bad] = torch.nan
        x[2, 0] = torch.inf
        bad[2] = True
    for rule in (TopK(2), Above(torch.zeros((), dtype=torch.float64))):
        with torch.no_grad():
            codes = encode(x, good.weight, good.bias, rule).dense()
            clean = encode(good.x, good.weight, good.bias, rule).dense()
            decode(encode(x, good.weight, good.bias, rule), good.decoder)
        assert torch.equal(codes[~bad], clean[~bad])
    with torch.no_grad():
        encode(x, good.weight, good.bias, BatchTopK(2))


def test_the_k_largest_may_be_negative_and_the_largest_of_a_batch_may_not() -> None:
    given = data(9, 4, 12, 4)
    with torch.no_grad():
        given.bias.sub_(100)
    assert bool((encode(given.x, given.weight, given.bias, TopK(5)).values < 0).all())
    for rule in (BatchTopK(5), Above(torch.zeros((), dtype=torch.float64))):
        codes = encode(given.x, given.weight, given.bias, rule)
        assert codes.row_starts.tolist() == [0] * 10
        result = ours(given, rule)
        assert not any(bool(tensor.any()) for tensor in result)
        same(result, truth(given, rule))


@pytest.mark.parametrize("rule", [TopK(3), BatchTopK(3), Above(torch.tensor(0.5, dtype=torch.float64))])
def test_the_size_of_a_chunk_changes_nothing(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is at least 32 tokens."""
    given, whole = data(150, 6, 40, 5), truth(data(150, 6, 40, 5), rule)
    for entries in (1, 40 * 50, 40 * 149, 10**9):
        monkeypatch.setattr(cpu, "CHUNK_ENTRIES", entries)
        same(ours(given, rule), whole)
    for entries in (1, 40 * 7, 10**9):
        with mock.patch.multiple(dense, CROWDED=-1, CHUNK_ENTRIES=entries):
            same(ours(given, rule), whole)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [TopK(6), BatchTopK(6), Above(torch.tensor(0.5))])
def test_the_number_of_threads_changes_no_byte(rule: Rule, dtype: torch.dtype) -> None:
    """What numba sums and orders; the dense product is torch's, so it is made once."""
    given = data(300, 33, 210, 6, dtype)
    chunks = [(given.x @ given.weight.T + given.bias).detach()]
    results = []
    with (
        mock.patch.object(dense, "CROWDED", 2),
        mock.patch.object(cpu.CpuKernels, "preactivations", side_effect=lambda *_: (chunk.clone() for chunk in chunks)),
    ):
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            codes = encode(given.x, given.weight, given.bias, rule)
            out = decode(codes, given.decoder)
            grads = torch.autograd.grad((out * given.pull).sum(), [given.x, given.weight, given.bias, given.decoder])
            results.append([codes.values.detach(), codes.latents, codes.row_starts, out.detach(), *grads])
    for result in results[1:]:
        same_bytes(results[0], result)


def test_running_again_changes_no_byte() -> None:
    for rule in (TopK(5), BatchTopK(5)):
        same_bytes(ours(data(80, 20, 90, 7), rule), ours(data(80, 20, 90, 7), rule))


@SAMPLED
@given(tokens=st.integers(1, 20), latents=st.integers(1, 20), k=st.integers(1, 5), floor=st.floats(-1, 4), seed=st.integers(0, 2**20))
def test_a_guess_at_the_weakest_changes_nothing(tokens: int, latents: int, k: int, floor: float, seed: int) -> None:
    given = data(tokens, 4, latents, seed)
    same_bytes(ours(given, BatchTopK(k, floor=torch.tensor(floor, dtype=torch.float64))), ours(given, BatchTopK(k)))


def test_processes_choose_together_what_one_would() -> None:
    given = data(60, 5, 30, 8)
    scores = ((given.x - given.centre) @ given.weight.T + given.bias).detach().flatten()
    everyone = scores[scores > 0]
    parts = [
        encode(part, given.weight, given.bias, BatchTopK(3, all_gather=lambda _: everyone, tokens=60), given.centre).dense()
        for part in given.x.split([20, 40])
    ]
    torch.testing.assert_close(torch.cat(parts), encode(given.x, given.weight, given.bias, BatchTopK(3), given.centre).dense())
    assert int((torch.cat(parts) > 0).sum()) == 180


def test_recycled_gradients_are_handed_out_again_and_nothing_is_left_of_them() -> None:
    given = data(30, 6, 20, 9)
    weights = [torch.nn.Parameter(given.weight.detach().clone()), torch.nn.Parameter(given.decoder.detach().clone())]

    def step() -> tuple[list[torch.Tensor], set[int]]:
        """Copies of the gradients, and where they are: what else holds a gradient keeps it from being handed on."""
        codes = encode(given.x.detach(), weights[0], given.bias.detach(), TopK(3))
        decode(codes, weights[1]).square().sum().backward()
        grads = [weight.grad for weight in weights if weight.grad is not None]
        copies = [grad.clone() for grad in grads]
        for grad in grads:
            grad.fill_(torch.nan)
        return copies, {grad.data_ptr() for grad in grads}

    with mock.patch.object(dense, "CROWDED", 2):
        first, places = step()
        buffers.recycle(weights)
        assert all(weight.grad is None for weight in weights)
        second, again = step()
    assert again == places
    same_bytes(first, second)


def test_a_buffer_of_another_kind_is_not_handed_out() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    parameter.grad = torch.ones(3, 4)
    place = parameter.grad.data_ptr()
    buffers.recycle([parameter, torch.nn.Parameter(torch.zeros(2))])
    assert buffers.take(torch.zeros(4, 3)).shape == (4, 3)
    assert buffers.take(torch.zeros(3, 4, dtype=torch.float64)).dtype == torch.float64
    assert buffers.take(torch.zeros(3, 4)).data_ptr() == place
    assert buffers.take(torch.zeros(3, 4)).data_ptr() != place
    buffers.recycle([])
