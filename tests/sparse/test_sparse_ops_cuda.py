"""The CUDA kernels against plain autograd in float64.

Without a GPU the Triton kernels run on CPU tensors in Triton's interpreter, in a process of its own: the interpreter must be
chosen before triton is imported. That shows that their sums are right, not that they are fast, nor that they run on a GPU; that
they compile for one is tested apart. With a GPU the same checks run there.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from interp.core.errors import TrainingError
from interp.sparse import Above, BatchTopK, Codes, Rule, TopK, decode, dense, encode
from tests.helpers import sparse_reference as reference

RULES: dict[str, Callable[[torch.Tensor], Rule]] = {
    "topk": lambda scale: TopK(3),
    "topk-scaled": lambda scale: TopK(3, scale),
    "topk-all": lambda scale: TopK(8),
    "batch": lambda scale: BatchTopK(3),
    "batch-scaled": lambda scale: BatchTopK(3, scale),
    "above": lambda scale: Above(scale),
    "above-nothing": lambda scale: Above(torch.full_like(scale, 1e9)),
}


def kernels() -> Any:
    """Imported when they are needed: triton may be missing."""
    return importlib.import_module("interp.sparse.cuda").KERNELS


def sparse() -> Any:
    """However many latents are active."""
    return mock.patch.object(dense, "CROWDED", 2)


def close(ours: torch.Tensor, true: torch.Tensor, share: float) -> None:
    """Apart by no more than a share of the truth's length, and finite."""
    ours, true = ours.detach().cpu().double(), true.detach().double()
    assert ours.shape == true.shape
    assert float((ours - true).norm()) <= share * float(true.norm())


def agree(rule: str, d_in: int, kind: str, among: bool, device: str) -> None:
    """Encode and decode, values and every gradient; some tokens and some latents have no entries."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(d_in)
    tokens, latents = (13, 60) if d_in < 100 else (7, 20)  # the interpreter takes a millisecond for each program

    def made(*shape: int, by: float = 1.0) -> torch.Tensor:
        return (by * torch.randn(*shape, generator=generator)).to(dtype)

    x, weight, bias, centre, decoder = (
        made(tokens, d_in), made(latents, d_in, by=d_in**-0.5), made(latents, by=0.1), made(d_in), made(latents, d_in),
    )  # fmt: skip
    x[[0, 5, tokens - 1]] = centre  # three equal rows, whose pre-activations are the bias: none is above a bound
    scale, pull, value_pull = torch.rand(latents, generator=generator) + 0.5, made(tokens, d_in), made(tokens, latents)
    some = torch.randperm(latents, generator=generator)[:8] if among else None
    if not among:
        bias[::4] = -50  # never active
    inputs = [tensor.to(device).requires_grad_() for tensor in (x, weight, bias, centre, decoder)]
    truths = [tensor.double().requires_grad_() for tensor in (x, weight, bias, centre, decoder)]
    with sparse(), torch.autocast(device, torch.bfloat16, enabled=kind == "autocast"):
        codes = encode(*inputs[:3], RULES[rule](scale.to(device)), inputs[3], None if some is None else some.to(device), kernels())
        out = decode(codes, inputs[4], kernels())
    loss = (out * pull.to(device)).sum() + (codes.dense() * value_pull.to(device)).sum()
    grads = torch.autograd.grad(loss, inputs)

    true_codes = reference.encode(*truths[:3], RULES[rule](scale.double()), truths[3], some)
    if kind == "float32":
        assert codes.row_starts.tolist() == true_codes.row_starts.tolist()
        for begin, end in pairwise(codes.row_starts.tolist()):
            assert sorted(codes.latents[begin:end].tolist()) == true_codes.latents[begin:end].tolist()
    else:  # rounded pre-activations may choose otherwise where two are nearly equal: the truth at the places that were chosen
        assert codes.values.dtype == torch.float32
        pre = (truths[0] - truths[3]) @ truths[1].T + truths[2]
        same = Codes(torch.ones(len(codes.latents)), codes.latents.cpu(), codes.row_starts.cpu(), latents)
        otherwise = same.dense() != true_codes.with_values(torch.ones(len(true_codes.latents))).dense()
        assert bool((distance_to_cutoff(pre.detach(), RULES[rule](scale.double()), some)[otherwise] < 0.05).all())
        true_codes = same.with_values(pre[same.tokens, same.latents.long()])
    true_out = reference.decode(true_codes, truths[4])
    true_loss = (true_out * pull.double()).sum() + (true_codes.dense() * value_pull.double()).sum()
    true_grads = torch.autograd.grad(true_loss, truths)

    share = 1e-5 if kind == "float32" else 0.01
    close(codes.dense(), true_codes.dense(), share)
    close(out, true_out, share)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert grad.dtype == dtype
        close(grad, true_grad, share)


def distance_to_cutoff(pre: torch.Tensor, rule: Rule, some: torch.Tensor | None) -> torch.Tensor:
    """How far each pre-activation is from being chosen or not."""
    if isinstance(rule, Above):
        return (pre - rule.bound).abs()
    assert isinstance(rule, TopK | BatchTopK)
    score = pre if rule.scale is None else pre * rule.scale
    among = score if some is None else score[:, some]
    if isinstance(rule, TopK):
        return (score - among.topk(rule.k).values[:, -1:]).abs()
    return (score - among.flatten().topk(rule.k * len(pre)).values[-1].clamp(min=0)).abs()


def chooses_the_largest(device: str) -> None:
    """Long rows, where groups are ranked first; ties, rows that are not finite, no rows."""
    generator = torch.Generator().manual_seed(0)
    for columns, k, digits in ((1500, 1, 3), (1500, 5, 1), (1500, 400, 1), (1500, 1500, 1), (5000, 64, 4), (9, 9, 1)):
        chunk = torch.randn(6, columns, generator=generator).round(decimals=digits).to(device)
        values, latents = kernels().largest(chunk.clone(), k)
        assert latents.dtype == torch.int32
        assert torch.equal(values, chunk.topk(k).values)
        assert torch.equal(chunk.gather(1, latents.long()), values)
        assert all(len(set(row)) == k for row in latents.tolist())
    chunk[2], chunk[3, 4] = torch.nan, torch.nan
    assert kernels().largest(chunk, 3)[0].isnan().sum() == 4
    assert kernels().largest(chunk[:0], 3)[0].shape == (0, 3)


def finds_all_above(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    chunk = torch.randn(7, 40, generator=generator).to(device)
    chunk[3] = -5
    for bound in (torch.zeros(()), torch.rand(40, generator=generator), torch.tensor(1e9)):
        values, latents, per_row = kernels().above(chunk, bound.to(device))
        mask = chunk > bound.to(device)
        assert torch.equal(values, chunk[mask])
        assert (latents.dtype, per_row.dtype) == (torch.int32, torch.int64)
        assert torch.equal(latents.long(), mask.nonzero()[:, 1])
        assert torch.equal(per_row, mask.sum(1))
    # 1.001 rounds to 1 in bfloat16: the bound is not rounded.
    assert len(kernels().above(torch.ones(2, 3, dtype=torch.bfloat16, device=device), torch.tensor(0.999, device=device))[0]) == 6
    assert len(kernels().above(torch.ones(2, 3, dtype=torch.bfloat16, device=device), torch.tensor(1.001, device=device))[0]) == 0


def sorts_by_latent(device: str) -> None:
    latents = torch.tensor([4, 0, 4, 2, 0, 4], dtype=torch.int32, device=device)
    sorted_ = kernels().by_latent(Codes(latents, latents, torch.tensor([0, 2, 6], device=device), 6))
    assert sorted_.order.tolist() == [1, 4, 3, 0, 2, 5]
    assert sorted_.starts.tolist() == [0, 2, 2, 3, 3, 6, 6]


def makes_preactivations_in_chunks(device: str) -> None:
    """As small as they may be, and in autocast's type where that is on."""
    module = importlib.import_module("interp.sparse.cuda")
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(device) for shape in ((5, 7), (11, 7), (11,)))
    whole = x @ weight.T + bias
    before, module.CHUNK_ENTRIES = module.CHUNK_ENTRIES, 23
    try:
        chunks = list(kernels().preactivations(x, weight, bias))
        assert [len(chunk) for chunk in chunks] == [2, 2, 1]
        close(torch.cat(chunks), whole.cpu(), 1e-5)
        with torch.autocast(device, dtype=torch.bfloat16):
            mixed = torch.cat(list(kernels().preactivations(x, weight, bias)))
    finally:
        module.CHUNK_ENTRIES = before
    assert mixed.dtype == torch.bfloat16
    close(mixed, whole.cpu(), 0.01)


def takes_what_is_empty(device: str) -> None:
    """No token; no entry; and one that has a non-contiguous input."""
    weight = torch.randn(5, 6).to(device)
    no_latents, row_starts = torch.zeros(0, dtype=torch.int32, device=device), torch.zeros(1, dtype=torch.long, device=device)
    nothing, out = Codes(weight.new_empty(0), no_latents, row_starts, 5), torch.full_like(weight, 7)
    assert kernels().gather_sum(nothing, weight).shape == (0, 6)
    assert kernels().gather_dot(weight[:0], nothing, weight).shape == (0,)
    assert kernels().scatter_outer(nothing, weight[:0], None, out).tolist() == [0] * 5
    assert not out.any()
    two, latent = torch.full((1,), 2.0, device=device), torch.ones(1, dtype=torch.int32, device=device)
    one = Codes(two, latent, torch.tensor([0, 1], device=device), 5)
    across = torch.randn(6, 5).to(device).T
    close(kernels().gather_sum(one, across), 2 * across[1:2].cpu(), 1e-6)


def repeats_its_bytes(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(40, 70, generator=generator).to(device), torch.randn(9, 70, generator=generator).to(device)
    results = []
    for _ in range(2):
        leaf = weight.clone().requires_grad_()
        with sparse():
            codes = encode(x, leaf, leaf.new_zeros(9), TopK(4), kernels=kernels())
            out = decode(codes, leaf, kernels())
        results.append([out.detach(), *torch.autograd.grad((out**2).sum(), leaf)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


CHECKS: dict[str, Callable[[str], None]] = {
    f"{rule}-{d_in}-{kind}{'-among' if among else ''}": partial(agree, rule, d_in, kind, among)
    for rule, d_in, kind, among in (
        *((rule, 37, kind, False) for kind in ("float32", "bf16", "autocast") for rule in RULES),
        *((rule, 37, "float32", True) for rule in ("topk", "topk-all", "batch")),
        ("topk", 37, "bf16", True),
        ("topk", 576, "float32", False),
        ("batch", 576, "bf16", False),
        ("above", 576, "autocast", False),
        ("topk", 1100, "float32", False),  # four warps to a program
    )
} | {
    check.__name__: check
    for check in (
        chooses_the_largest, finds_all_above, sorts_by_latent, makes_preactivations_in_chunks, takes_what_is_empty, repeats_its_bytes,
    )
}  # fmt: skip


def compile_all() -> None:
    """Every kernel for the H100 and H200 (compute capability 9.0) and the A100 (8.0), down to machine code; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from interp.sparse import cuda, triton_kernels

    numbers = {"latents": "*i32", "tokens": "*i64", "starts": "*i64"}
    for kernel in (triton_kernels.gather_sum, triton_kernels.gather_dot, triton_kernels.scatter_outer):
        for capability, d_in, dtype in ((90, 3584, torch.bfloat16), (90, 576, torch.float32), (80, 37, torch.float32)):
            rows = torch.empty(1, d_in, dtype=dtype)
            held = "*bf16" if dtype == torch.bfloat16 else "*fp32"
            warps = 1 if kernel is triton_kernels.gather_sum else cuda._warps(rows)
            fixed = {
                "d_in": d_in, "entries_each": cuda.ENTRIES_EACH, "columns_each": cuda._columns(rows, warps),
                "sum_type": cuda._sum_type(rows),
            } | ({"shift": None} if d_in == 37 else {})  # fmt: skip
            signature = {
                name: "constexpr" if name in fixed else numbers.get(name, held if name in ("weight", "rows") else "*fp32")
                for name in kernel.arg_names
            }
            places = {(kernel.arg_names.index(name),): value for name, value in fixed.items() if name in kernel.arg_names}
            source = ASTSource(fn=kernel, signature=signature, constexprs=places)
            options = {"num_warps": warps, "enable_fp_fusion": True}
            assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


def in_another_process(tmp_path: Path, what: str, **environment: str) -> str:
    """Run this file as a program, and return what it prints."""
    if find_spec("triton") is None:
        if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
            pytest.fail("triton is not installed; `make setup` installs it on Linux x86_64")
        pytest.skip("triton is not installed, and is not part of the set-up on this platform")
    settings = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "tests.sparse.test_sparse_ops_cuda", what]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=settings, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each check in Triton's interpreter; the empty string is good."""
    printed = in_another_process(tmp_path_factory.mktemp("triton"), "check", TRITON_INTERPRET="1")
    found = json.loads(printed.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("check", [pytest.param(name, id=f"triton-interpreter-{name}") for name in CHECKS])
def test_the_kernels_are_right_in_tritons_interpreter(check: str, interpreted: dict[str, str]) -> None:
    assert not interpreted[check], interpreted[check]


def test_the_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert in_another_process(tmp_path, "compile", TRITON_INTERPRET="0").splitlines()[-1] == "compiled"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; the interpreter tests cover the sums")
@pytest.mark.parametrize("check", [pytest.param(name, id=f"gpu-{name}") for name in CHECKS])
def test_the_kernels_are_right_on_the_gpu(check: str) -> None:
    CHECKS[check]("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_offsets_beyond_two_to_the_31_are_right() -> None:
    """A weight of 2³¹ + 2²⁰ elements in bfloat16, 4 GiB."""
    latents, d_in = 2**19 + 2**8, 4096
    weight = torch.zeros(latents, d_in, dtype=torch.bfloat16, device="cuda")
    weight[-1] = 1
    last = torch.tensor([latents - 1], dtype=torch.int32, device="cuda")
    codes = Codes(torch.full((1,), 3.0, device="cuda"), last, torch.tensor([0, 1], device="cuda"), latents)
    assert bool((kernels().gather_sum(codes, weight) == 3).all())
    rows = torch.ones(1, d_in, device="cuda")
    assert kernels().gather_dot(rows, codes, weight).tolist() == [d_in]
    out = torch.empty_like(weight)
    kernels().scatter_outer(codes, rows, None, out)
    assert bool((out[-1] == 3).all())
    assert not bool(out[:-1].any())


def test_without_triton_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "interp.sparse.cuda", raising=False)
    with pytest.raises(TrainingError, match="pip install triton"):
        importlib.import_module("interp.sparse.cuda")


def report() -> dict[str, str]:
    """What goes wrong in each check, in the interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    from interp.sparse import triton_kernels

    assert isinstance(triton_kernels.gather_sum, InterpretedFunction)
    found = {}
    for name, check in CHECKS.items():
        try:
            check("cpu")
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "check":
        print(json.dumps(report()))
    else:
        compile_all()
        print("compiled")
