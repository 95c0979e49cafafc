"""Every architecture's losses and gradients against plain autograd and the papers' formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from interp.core.errors import TrainingError
from interp.sparse import Codes, TopK, dense
from sae_training import architectures
from sae_training.architectures import build
from sae_training.architectures.base import SparseCoder, StepContext
from sae_training.architectures.batch_topk import BatchTopKCoder
from sae_training.architectures.gated import GatedCoder
from sae_training.architectures.jumprelu import JumpReLUCoder
from sae_training.architectures.matryoshka import MatryoshkaCoder
from sae_training.architectures.topk import TopKCoder
from sae_training.config import BatchTopKConfig, CoderConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, TopKConfig
from sae_training.normalise import Layout
from tests.helpers import sparse_reference as reference
from tests.helpers.small_coders import D_IN, DEAD, LATENTS, TOKENS, all_cases, made, preactivations


def gradients(coder: SparseCoder, x: torch.Tensor, context: StepContext) -> dict[str, dict[str, torch.Tensor]]:
    """For every loss term, its value and its gradient for every parameter."""
    outcome, named = coder.outcome(x, context), dict(coder.named_parameters())
    result = {}
    for term, loss in outcome.losses.items():
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        result[term] = {"loss": loss.detach()} | {
            name: torch.zeros_like(named[name]) if gradient is None else gradient.clone()
            for name, gradient in zip(named, found, strict=True)
        }
    return result | {"": {"codes": outcome.codes.dense().detach(), "reconstruction": outcome.reconstruction.detach()}}


def strongest_first(x: Any, weight: Any, bias: Any, rule: Any, centre: Any = None, among: Any = None) -> Codes:
    """The reference's encoder, with a token's entries in the order that `TopK` promises."""
    codes = reference.encode(x, weight, bias, rule, centre, among)
    if not isinstance(rule, TopK):
        return codes
    scores = codes.values.detach() * (1 if rule.scale is None else rule.scale[codes.latents.long()])
    order = scores.argsort(descending=True)
    order = order[codes.tokens[order].argsort(stable=True)]
    return Codes(codes.values[order], codes.latents[order], codes.row_starts, codes.n_latents)


@pytest.fixture
def plain_autograd(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """In its context, architectures encode and decode by plain autograd on dense matrices."""
    with monkeypatch.context() as patch:
        yield patch


def use_reference(patch: pytest.MonkeyPatch) -> None:
    names = ("base", "batch_topk", "gated", "jumprelu", "matryoshka", "standard", "topk")
    modules = [vars(architectures).get(name) or __import__(f"sae_training.architectures.{name}", fromlist=[""]) for name in names]
    replaced = 0
    for module in modules:
        for name, function in (("encode", strongest_first), ("decode", reference.decode)):
            if name in vars(module):
                patch.setattr(module, name, function)
                replaced += 1
    assert replaced == 4


@pytest.mark.parametrize("crowded", [0.0, 1.0], ids=["dense kernels", "sparse kernels"])
@all_cases
def test_every_loss_terms_gradients_equal_those_of_plain_autograd(case: str, crowded: float, plain_autograd: pytest.MonkeyPatch) -> None:
    coder, x = made(case)
    twin = copy.deepcopy(coder)
    context = StepContext(dead=DEAD, ramp=0.7, tokens=TOKENS)
    plain_autograd.setattr(dense, "CROWDED", crowded)
    ours = gradients(coder, x, context)
    use_reference(plain_autograd)
    truth = gradients(twin, x, context)
    assert ours.keys() == truth.keys()
    wanted = {"reconstruction"} | ({"aux"} if "topk" in case or "multi" in case or "matryoshka" in case else set())
    wanted |= {"multi"} if "multi" in case else {"gate", "sparsity"} if case == "gated" else set()
    wanted |= {"sparsity"} if "jumprelu" in case or "standard" in case else set()
    assert ours.keys() - {""} == wanted
    for term, parts in ours.items():
        for name, value in parts.items():
            torch.testing.assert_close(value, truth[term][name], atol=1e-12, rtol=1e-9, msg=lambda m, t=term, n=name: f"{t}, {n}: {m}")
    if isinstance(coder, BatchTopKCoder):
        torch.testing.assert_close(coder.threshold, twin.threshold)
    for term in {"reconstruction", "aux", "multi", "gate"} & ours.keys():
        assert float(ours[term]["encoder"].abs().max()) > 1e-4
        if (case, term) != ("gated", "reconstruction"):  # through the gate there is no gradient
            assert float(ours[term]["encoder_bias"].abs().max()) > 1e-4


@all_cases
def test_without_dead_latents_there_is_no_aux_loss(case: str) -> None:
    coder, x = made(case)
    for dead in (None, DEAD[:0]):
        assert "aux" not in coder.outcome(x, StepContext(dead=dead)).losses
    if hasattr(coder.config, "aux_k"):
        coder.config = coder.config.model_copy(update={"aux_k": 0})
        assert "aux" not in coder.outcome(x, StepContext(dead=DEAD)).losses


def check_against(coder: SparseCoder, x: torch.Tensor, context: StepContext, truth: dict[str, torch.Tensor]) -> None:
    """Loss terms and their gradients against losses written out."""
    named, ours = dict(coder.named_parameters()), gradients(coder, x, context)
    assert ours.keys() - {""} == truth.keys()
    for term, loss in truth.items():
        torch.testing.assert_close(ours[term]["loss"], loss.detach(), atol=1e-12, rtol=1e-9)
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            expected = torch.zeros_like(named[name]) if gradient is None else gradient
            torch.testing.assert_close(ours[term][name], expected, atol=1e-12, rtol=1e-9, msg=lambda m, t=term, n=name: f"{t}, {n}: {m}")


@pytest.mark.parametrize("case", ["topk", "multi_k", "topk-folded", "topk-pair", "multi_k-pair-folded-dedicated"])
def test_topk_against_the_papers_losses(case: str) -> None:
    """Gao et al. 2024, arXiv:2406.04093: section 2.3, appendices A.2 (AuxK) and A.4 (Multi-TopK)."""
    coder, x = made(case)
    assert isinstance(coder, TopKCoder)
    config, pre = coder.config, preactivations(coder, x)
    scores = (pre * coder.norms()).detach()

    def reconstruction(k: int) -> torch.Tensor:
        kept = torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)
        return torch.relu(pre * kept) @ coder.decoder + coder.decoder_bias

    error = (x - reconstruction(config.k)).detach()
    of_dead = torch.full_like(scores, -torch.inf)
    of_dead[:, DEAD] = pre.detach()[:, DEAD]
    kept = torch.zeros_like(scores).scatter(1, of_dead.topk(min(coder.layout.width // 2, len(DEAD)), dim=1).indices, 1.0)
    missed = error - torch.relu(pre * kept) @ coder.decoder
    truth = {
        "reconstruction": (x - reconstruction(config.k)).square().mean(),
        "aux": missed.square().sum() / error.square().sum() / 32,
    }
    if config.multi_k:
        truth["multi"] = (x - reconstruction(config.k * config.multi_k)).square().mean() / 8
    check_against(coder, x, StepContext(dead=DEAD), truth)


@pytest.mark.parametrize("case", ["batchtopk", "batchtopk-folded", "batchtopk-pair"])
def test_batchtopk_keeps_the_largest_of_the_batch_and_learns_its_weakest(case: str) -> None:
    """Bussmann et al. 2024, arXiv:2412.06410: k × tokens entries of the batch, and a running estimate of the smallest."""
    coder, x = made(case)
    assert isinstance(coder, BatchTopKCoder)
    pre = preactivations(coder, x)
    scores = (pre * coder.norms()).detach()
    largest = scores.flatten().topk(coder.config.k * TOKENS).values
    acts = pre * (scores >= largest.min())
    check_against(coder, x, StepContext(), {"reconstruction": (x - acts @ coder.decoder - coder.decoder_bias).square().mean()})
    before = float(coder.threshold)  # moved once already, from 0.9
    assert before == pytest.approx(0.9 + 0.01 * (float(largest.min()) - 0.9))
    coder.outcome(x, StepContext())
    assert float(coder.threshold) == pytest.approx(before + 0.01 * (float(largest.min()) - before))
    coder.threshold.zero_()
    coder.outcome(x, StepContext())
    assert float(coder.threshold) == pytest.approx(float(largest.min()))  # the first batch settles it


@pytest.mark.parametrize("case", ["matryoshka", "matryoshka-folded", "matryoshka-pair"])
def test_matryoshka_against_a_loop_over_prefixes(case: str) -> None:
    """Bussmann et al. 2025, arXiv:2503.17547: the mean over nested dictionaries of their reconstruction losses."""
    coder, x = made(case)
    assert isinstance(coder, MatryoshkaCoder)
    pre = preactivations(coder, x)
    scores = (pre * coder.norms()).detach()
    acts = pre * (scores >= scores.flatten().topk(coder.config.k * TOKENS).values.min())
    assert coder.edges == [0, 4, 12, 20, LATENTS]
    losses = []
    for size in coder.edges[1:]:
        losses.append((x - acts[:, :size] @ coder.decoder[:size] - coder.decoder_bias).square().mean())
    check_against(coder, x, StepContext(), {"reconstruction": torch.stack(losses).mean()})
    torch.testing.assert_close(coder.outcome(x, StepContext()).reconstruction, acts @ coder.decoder + coder.decoder_bias)


@pytest.mark.parametrize("case", ["jumprelu", "jumprelu-pair"])
def test_jumprelu_against_the_papers_pseudo_derivatives(case: str) -> None:
    """Rajamanoharan et al. 2024, arXiv:2407.14435, equations 11 and 12, with a rectangle of width ε for the kernel."""
    coder, x = made(case)
    assert isinstance(coder, JumpReLUCoder)
    width, weight, theta = coder.config.bandwidth, coder.config.l0_weight, coder.log_threshold.detach().exp()
    assert float(theta.min()) > width / 2  # so that no window reaches below zero
    pre = preactivations(coder, x).detach()
    on = (pre > theta).double()
    kernel = ((pre - theta).abs() < width / 2).double()
    assert float((kernel * (1 - on)).sum()) > 20  # entries below their threshold pull at it, too
    error = (pre * on) @ coder.decoder + coder.decoder_bias - x
    to_decoded = (2 / error.numel()) * error
    to_acts = to_decoded @ coder.decoder.T
    to_pre = to_acts * on
    expected = {
        "reconstruction": {
            "log_threshold": theta * (to_acts * kernel * -theta / width).sum(0),  # (11), then through the exponential
            "encoder": to_pre.T @ (x - coder.decoder_bias),
            "encoder_bias": to_pre.sum(0),
            "decoder": (pre * on).T @ to_decoded,
            "decoder_bias": to_decoded.sum(0) - (to_pre @ coder.encoder).sum(0),
        },
        "sparsity": {"log_threshold": 0.7 * weight / TOKENS * theta * (kernel * -1 / width).sum(0)},  # (12)
    }
    ours = gradients(coder, x, StepContext(ramp=0.7))
    torch.testing.assert_close(ours["reconstruction"]["loss"], error.square().mean().detach())
    torch.testing.assert_close(ours["sparsity"]["loss"], 0.7 * weight * on.sum() / TOKENS)
    for term, parts in expected.items():
        for name in dict(coder.named_parameters()):
            wanted = parts.get(name, torch.zeros_like(ours[term][name])).detach()
            torch.testing.assert_close(ours[term][name], wanted, atol=1e-12, rtol=1e-9)


def test_a_window_that_reaches_below_zero_ends_there() -> None:
    """Latents that are off at a token do not pull at a threshold near zero: there would be nearly all of them."""
    coder, x = made("jumprelu")
    assert isinstance(coder, JumpReLUCoder)
    with torch.no_grad():
        coder.log_threshold.fill_(math.log(0.1))  # bandwidth 0.5: the window begins at -0.15
    pre = preactivations(coder, x).detach()
    kernel = ((pre > 0) & (pre < 0.35)).double()
    ours = gradients(coder, x, StepContext())["sparsity"]["log_threshold"]
    torch.testing.assert_close(ours, -(0.02 / TOKENS * 0.1 / 0.5) * kernel.sum(0))


def test_gated_against_the_papers_losses() -> None:
    """Rajamanoharan et al. 2024, arXiv:2404.16014: gates by a step function without gradient, an auxiliary loss with a frozen decoder."""
    coder, x = made("gated")
    assert isinstance(coder, GatedCoder)
    directions = (x - coder.decoder_bias) @ coder.encoder.T
    gates = torch.relu(directions + coder.encoder_bias)
    acts = (gates > 0).double() * torch.relu(coder.log_gain.exp() * directions + coder.magnitude_bias)
    truth = {
        "reconstruction": (x - acts @ coder.decoder - coder.decoder_bias).square().mean(),
        "sparsity": 0.7 * 0.1 * gates.sum() / TOKENS / D_IN**0.5,
        "gate": (x - gates @ coder.decoder.detach() - coder.decoder_bias.detach()).square().mean(),
    }
    check_against(coder, x, StepContext(ramp=0.7), truth)
    torch.testing.assert_close(coder.outcome(x, StepContext()).codes.dense(), acts)


@pytest.mark.parametrize("case", ["standard", "standard-folded", "standard-pair", "standard-pair-folded"])
def test_standard_weighs_activations_by_the_sum_of_decoder_norms(case: str) -> None:
    """Conerly et al., April 2024; crosscoders: Lindsey et al. 2024. Norms of rows that are kept at one take no part in the gradient."""
    coder, x = made(case)
    acts = torch.relu(preactivations(coder, x))
    norms = coder.decoder.unflatten(1, (-1, D_IN)).norm(dim=2).sum(1)
    if case == "standard":
        norms = torch.ones_like(norms)
    truth = {
        "reconstruction": (x - acts @ coder.decoder - coder.decoder_bias).square().mean(),
        "sparsity": 0.1 * (acts @ norms).sum() / TOKENS / coder.layout.width**0.5,
    }
    check_against(coder, x, StepContext(), truth)


# What does not fit

UNFIT = [
    (TopKConfig(n_latents=8, k=9), 1, r"k is 9, more than the 8 latents\. Lower k, or raise n_latents"),
    (TopKConfig(n_latents=8, k=3, multi_k=3), 1, r"k is 9, more than the 8 latents"),
    (BatchTopKConfig(n_latents=8, k=9), 1, r"k is 9, more than the 8 latents"),
    (TopKConfig(n_latents=8, k=2, tuned_only=1), 1, r"residuals of two models: train a crosscoder, or set both to 0"),
    (TopKConfig(n_latents=8, k=2, tuned_only=4, base_only=4), 2, r"make 8 latents, of 8 in all\. Lower them"),
    (GatedConfig(n_latents=8), 2, r"A gated dictionary reads one model\. Choose another kind for a crosscoder"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.5, 0.25]), 1, r"nested \[0\.5, 0\.25\] must ascend between 0 and 1"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.5, 1.0]), 1, r"each step must add a latent"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.01]), 1, r"each step must add a latent"),
]


@pytest.mark.parametrize(("config", "n_models", "message"), UNFIT)
def test_settings_that_do_not_fit_are_refused(config: CoderConfig, n_models: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build(config, Layout(D_IN, n_models), torch.Generator())


@pytest.mark.parametrize("config", [GatedConfig, JumpReLUConfig])
def test_free_decoder_norms_are_refused_where_thresholds_need_a_unit(config: type[CoderConfig]) -> None:
    with pytest.raises(ValueError, match="decoder_norm"):
        config.model_validate({"decoder_norm": "folded"})
