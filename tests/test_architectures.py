"""Every architecture's losses and gradients against plain autograd and the papers' formulas; folding; what a step must keep."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_features import HOOK

from interp.crosscoders import load_crosscoder
from interp.dictionaries import SparseCodes, load_dictionary
from interp.errors import TrainingError
from sae_training import architectures
from sae_training.architectures import base, build
from sae_training.architectures.base import Circumstances, CoderConfig, Layout, Normaliser, SparseCoder
from sae_training.architectures.batch_topk import BatchTopKCoder, BatchTopKConfig
from sae_training.architectures.gated import GatedCoder, GatedConfig
from sae_training.architectures.jumprelu import JumpReLUCoder, JumpReLUConfig
from sae_training.architectures.matryoshka import MatryoshkaCoder, MatryoshkaConfig
from sae_training.architectures.standard import StandardConfig
from sae_training.architectures.topk import TopKCoder, TopKConfig
from sae_training.config import TrainConfig
from sae_training.distributed import World
from sae_training.export import export
from sae_training.learner import Learner
from sae_training.normalise import Input
from sae_training.sparse_ops import Codes, Structure, TopK, dense, reference

D_IN, LATENTS, TOKENS = 6, 40, 30
DEAD = torch.tensor([1, 4, 7, 8, 15, 16, 23, 30, 38])
ALONE = World()

KINDS: dict[str, CoderConfig] = {
    "topk": TopKConfig(n_latents=LATENTS, k=3),
    "multi_k": TopKConfig(n_latents=LATENTS, k=2, multi_k=4),
    "batchtopk": BatchTopKConfig(n_latents=LATENTS, k=3),
    "matryoshka": MatryoshkaConfig(n_latents=LATENTS, k=3, nested=[0.1, 0.3, 0.5]),
    "jumprelu": JumpReLUConfig(n_latents=LATENTS, l0_weight=0.02),
    "standard": StandardConfig(n_latents=LATENTS),
    "gated": GatedConfig(n_latents=LATENTS),
}
FOLDED = {"decoder_norm": "folded"}
DEDICATED = {"base_only": 5, "tuned_only": 7}
CASES = {
    **{kind: (config, 1) for kind, config in KINDS.items()},
    **{f"{kind}-folded": (config.model_copy(update=FOLDED), 1) for kind, config in KINDS.items() if kind != "gated"},
    **{f"{kind}-pair": (config, 2) for kind, config in KINDS.items() if kind != "gated"},
    **{f"{kind}-pair-folded": (config.model_copy(update=FOLDED), 2) for kind, config in KINDS.items() if kind != "gated"},
    **{f"{kind}-pair-dedicated": (config.model_copy(update=DEDICATED), 2) for kind, config in KINDS.items() if kind != "gated"},
    **{
        f"{kind}-pair-folded-dedicated": (config.model_copy(update=FOLDED | DEDICATED), 2)
        for kind, config in KINDS.items()
        if kind != "gated"
    },
}
all_cases = pytest.mark.parametrize("case", CASES)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def as_if_trained(coder: SparseCoder, seed: int = 0) -> SparseCoder:
    """Random weights where a fresh dictionary has equal or zero ones; what a step keeps is kept."""
    coder.encoder += 0.4 * randn(*coder.encoder.shape, seed=seed + 1)
    coder.encoder_bias += 0.3 * randn(LATENTS, seed=seed + 2)
    coder.decoder_bias += 0.3 * randn(coder.layout.width, seed=seed + 3)
    if coder.shared_config.decoder_norm == "folded":
        coder.decoder *= (0.5 * randn(LATENTS, 1, seed=seed + 4)).exp()
        coder.decoder *= 1 + 0.2 * randn(*coder.decoder.shape, seed=seed + 5)
    for parameter in (coder.encoder, coder.decoder):
        for foreign in coder._foreign(parameter):
            foreign.zero_()
    if isinstance(coder, JumpReLUCoder):
        coder.log_threshold += 0.3 * randn(LATENTS, seed=seed + 6)
    if isinstance(coder, GatedCoder):
        coder.log_gain += 0.4 * randn(LATENTS, seed=seed + 7)
        coder.magnitude_bias += 0.3 * randn(LATENTS, seed=seed + 8)
    if isinstance(coder, BatchTopKCoder):
        coder.threshold.fill_(0.9)
    return coder


def made(case: str, seed: int = 0) -> tuple[SparseCoder, torch.Tensor]:
    """A dictionary and rows for it, in float64."""
    config, n_models = CASES[case]
    layout = Layout(D_IN, n_models)
    coder = as_if_trained(build(config, layout, torch.Generator().manual_seed(seed)), seed).double()
    return coder, randn(TOKENS, layout.width, seed=seed + 100).double()


def gradients(coder: SparseCoder, x: torch.Tensor, now: Circumstances) -> dict[str, dict[str, torch.Tensor]]:
    """For every loss term, its value and its gradient for every parameter."""
    outcome, named = coder.outcome(x, now), dict(coder.named_parameters())
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
    structure = codes.structure
    scores = codes.values.detach() * (1 if rule.scale is None else rule.scale[structure.latents.long()])
    order = scores.argsort(descending=True)
    order = order[structure.tokens[order].argsort(stable=True)]
    return Codes(codes.values[order], Structure(structure.latents[order], structure.starts, structure.n_latents))


@pytest.fixture
def plain_autograd(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """In its context, architectures encode and decode by plain autograd on dense matrices."""
    with monkeypatch.context() as patch:
        yield patch


def use_reference(patch: pytest.MonkeyPatch) -> None:
    names = ("aux_k", "base", "batch_topk", "gated", "jumprelu", "matryoshka", "standard", "topk")
    modules = [vars(architectures).get(name) or __import__(f"sae_training.architectures.{name}", fromlist=[""]) for name in names]
    replaced = 0
    for module in modules:
        for name, function in (("encode", strongest_first), ("decode", reference.decode)):
            if name in vars(module):
                patch.setattr(module, name, function)
                replaced += 1
    assert replaced == 10


@pytest.mark.parametrize("crowded", [0.0, 1.0], ids=["dense kernels", "sparse kernels"])
@all_cases
def test_every_loss_terms_gradients_equal_those_of_plain_autograd(case: str, crowded: float, plain_autograd: pytest.MonkeyPatch) -> None:
    coder, x = made(case)
    twin = copy.deepcopy(coder)
    now = Circumstances(dead=DEAD, ramp=0.7, tokens=TOKENS)
    plain_autograd.setattr(dense, "CROWDED", crowded)
    ours = gradients(coder, x, now)
    use_reference(plain_autograd)
    truth = gradients(twin, x, now)
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
        assert "aux" not in coder.outcome(x, Circumstances(dead=dead)).losses
    if hasattr(coder.shared_config, "aux_k"):
        coder.config = coder.shared_config.model_copy(update={"aux_k": 0})
        assert "aux" not in coder.outcome(x, Circumstances(dead=DEAD)).losses


def preactivations(coder: SparseCoder, x: torch.Tensor) -> torch.Tensor:
    return (x - coder.decoder_bias) @ coder.encoder.T + coder.encoder_bias


def check_against(coder: SparseCoder, x: torch.Tensor, now: Circumstances, truth: dict[str, torch.Tensor]) -> None:
    """Loss terms and their gradients against losses written out."""
    named, ours = dict(coder.named_parameters()), gradients(coder, x, now)
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
    check_against(coder, x, Circumstances(dead=DEAD), truth)


@pytest.mark.parametrize("case", ["batchtopk", "batchtopk-folded", "batchtopk-pair"])
def test_batchtopk_keeps_the_largest_of_the_batch_and_learns_its_weakest(case: str) -> None:
    """Bussmann et al. 2024, arXiv:2412.06410: k × tokens entries of the batch, and a running estimate of the smallest."""
    coder, x = made(case)
    assert isinstance(coder, BatchTopKCoder)
    pre = preactivations(coder, x)
    scores = (pre * coder.norms()).detach()
    largest = scores.flatten().topk(coder.config.k * TOKENS).values
    acts = pre * (scores >= largest.min())
    check_against(coder, x, Circumstances(), {"reconstruction": (x - acts @ coder.decoder - coder.decoder_bias).square().mean()})
    before = float(coder.threshold)  # moved once already, from 0.9
    assert before == pytest.approx(0.9 + 0.01 * (float(largest.min()) - 0.9))
    coder.outcome(x, Circumstances())
    assert float(coder.threshold) == pytest.approx(before + 0.01 * (float(largest.min()) - before))
    coder.threshold.zero_()
    coder.outcome(x, Circumstances())
    assert float(coder.threshold) == pytest.approx(float(largest.min()))  # the first batch settles it


@pytest.mark.parametrize("case", ["matryoshka", "matryoshka-folded", "matryoshka-pair-dedicated"])
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
    check_against(coder, x, Circumstances(), {"reconstruction": torch.stack(losses).mean()})
    torch.testing.assert_close(coder.outcome(x, Circumstances()).reconstruction, acts @ coder.decoder + coder.decoder_bias)


@pytest.mark.parametrize("case", ["jumprelu", "jumprelu-folded", "jumprelu-pair"])
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
    ours = gradients(coder, x, Circumstances(ramp=0.7))
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
    ours = gradients(coder, x, Circumstances())["sparsity"]["log_threshold"]
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
    check_against(coder, x, Circumstances(ramp=0.7), truth)
    torch.testing.assert_close(coder.outcome(x, Circumstances()).codes.dense(), acts)


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
    check_against(coder, x, Circumstances(), truth)


# Folding


def as_dense(codes: SparseCodes) -> torch.Tensor:
    empty = torch.zeros(len(codes), LATENTS)
    return empty.index_put_((codes.tokens, codes.flat_indices.long()), codes.flat_values, accumulate=True)


def activations(coder: SparseCoder, x: torch.Tensor) -> torch.Tensor:
    """What a dictionary does with normalised rows when it is used, one token by itself."""
    if isinstance(coder, TopKCoder):
        return coder.encode(x, coder.config.k).dense()
    if isinstance(coder, BatchTopKCoder):
        pre = preactivations(coder, x)
        return pre * (pre * coder.norms() > coder.threshold)
    return coder.outcome(x, Circumstances()).codes.dense()


def learner_of(case: str, seed: int = 0, scale: float = 0.37) -> Learner:
    config, n_models = CASES[case]
    reads = "pair" if n_models == 2 else "each"
    mean = 3 * randn(n_models, D_IN, seed=seed + 50) / scale
    settings = TrainConfig(architecture=config, reads=reads)
    return Learner(settings, Input(reads, Normaliser(mean, scale), None), (n_models, D_IN), 20, TOKENS, seed, torch.device("cpu"))


@pytest.mark.parametrize("scale", [0.01, 0.37, 20.0])
@all_cases
def test_the_saved_dictionary_does_on_raw_residuals_what_the_coder_does_on_normalised_ones(
    tmp_path: Path, case: str, scale: float
) -> None:
    learner = learner_of(case, scale=scale)
    coder, normaliser = as_if_trained(learner.coder), learner.input.normaliser
    with torch.no_grad():
        coder.after_step()
    n_models = CASES[case][1]
    raw = normaliser.mean + randn(200, n_models, D_IN, seed=9) / scale
    with torch.no_grad():
        acts = activations(coder, normaliser(raw))
        reconstruction = (acts @ coder.decoder + coder.decoder_bias) / scale + normaliser.mean.flatten()
        norms = coder.norms()
    assert 1 < float((acts > 0).sum(1).double().mean()) < LATENTS - 1
    export(learner, HOOK, ["base", "tuned"][:n_models], {"steps": 1}, tmp_path / "a")
    if n_models == 2:
        crosscoder = load_crosscoder(tmp_path / "a")
        assert (crosscoder.hook_point, crosscoder.models) == (HOOK, ("base", "tuned"))
        codes = crosscoder.encode(raw)
        decoded = crosscoder.decode(codes).flatten(1)
        torch.testing.assert_close(crosscoder.w_dec.norm(dim=2).sum(1), torch.ones(LATENTS))
        shares = coder.decoder.detach().unflatten(1, (2, D_IN)).norm(dim=2)
        torch.testing.assert_close(crosscoder.relative_norms(), shares[:, 1] / shares.sum(1))
        if "dedicated" in case:
            assert set(crosscoder.labels()[:5]) == {"base-only"}
            assert set(crosscoder.labels()[5:12]) == {"tuned-only"}
    else:
        dictionary = load_dictionary(tmp_path / "a")
        assert (dictionary.hook_point, dictionary.source, dictionary.reads) == (HOOK, "base", "")
        codes = dictionary.encode(raw[:, 0])
        decoded = dictionary.decode(codes)
        torch.testing.assert_close(dictionary.w_dec.norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(as_dense(codes), acts * norms / scale, atol=1e-5 / scale, rtol=1e-4)
    torch.testing.assert_close(decoded, reconstruction, atol=1e-5 / scale, rtol=1e-4)


def test_a_dictionary_of_differences_says_so(tmp_path: Path) -> None:
    settings = TrainConfig(architecture=KINDS["topk"], reads="difference")
    given = Input("difference", Normaliser(torch.zeros(1, D_IN), 1.0), None)
    learner = Learner(settings, given, (2, D_IN), 20, TOKENS, 0, torch.device("cpu"))
    export(learner, HOOK, ["base", "tuned"], {}, tmp_path / "a")
    dictionary = load_dictionary(tmp_path / "a")
    assert (dictionary.reads, dictionary.source) == ("difference", "base, tuned")


# What steps keep


def stepped(case: str, steps: int = 8) -> Learner:
    learner = learner_of(case)
    as_if_trained(learner.coder)
    learner.silent[DEAD] = 10**9
    for step in range(steps):
        metrics = learner.step(learner.input.normaliser.mean + 3 * randn(TOKENS, CASES[case][1], D_IN, seed=step), step, ALONE)
        assert math.isfinite(float(metrics["fvu"]))
    return learner


@all_cases
def test_steps_keep_norms_and_dedicated_latents(case: str) -> None:
    learner = stepped(case)
    coder, n_models = learner.coder, CASES[case][1]
    before = as_if_trained(learner_of(case).coder)
    moved = {name for name, value in coder.named_parameters() if not torch.equal(value, before.get_parameter(name))}
    assert moved == {name for name, _ in coder.named_parameters()}
    norms = coder.decoder.detach().norm(dim=1)
    if coder.shared_config.decoder_norm == "unit":
        torch.testing.assert_close(norms, torch.ones(LATENTS), atol=1e-6, rtol=0)
    else:
        assert float((norms - 1).abs().max()) > 0.3
    for rows in (coder.encoder.detach(), coder.decoder.detach()):
        parts = rows.unflatten(1, (n_models, D_IN))
        used = (parts != 0).any(-1)
        expected = torch.ones(LATENTS, n_models, dtype=torch.bool)
        if "dedicated" in case:
            expected[:5, 1] = False
            expected[5:12, 0] = False
        assert torch.equal(used, expected)


@pytest.mark.parametrize("case", ["topk", "standard-pair", "topk-pair-dedicated", "topk-folded"])
def test_the_part_of_the_decoder_gradient_along_its_rows_is_taken_away(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ROWS_AT_A_TIME", 7)  # more than one part
    coder, _ = made(case)
    with torch.no_grad():
        coder.after_step()
    for parameter in (coder.encoder, coder.decoder):
        parameter.grad = randn(*parameter.shape, seed=3).double()
    coder.after_backward()
    gradient, before = coder.decoder.grad, randn(*coder.decoder.shape, seed=3).double()
    assert gradient is not None
    for foreign in coder._foreign(before):
        foreign.zero_()
    along = (gradient * coder.decoder).sum(1)
    if coder.shared_config.decoder_norm == "folded":
        assert torch.equal(gradient, before)
        return
    torch.testing.assert_close(along, torch.zeros(LATENTS).double(), atol=1e-12, rtol=0)
    removed = before - gradient
    torch.testing.assert_close(removed, (removed * coder.decoder).sum(1, keepdim=True) * coder.decoder, atol=1e-12, rtol=0)


# What does not fit

UNFIT = [
    (TopKConfig(n_latents=8, k=9), 1, r"k is 9, more than the 8 latents\. Lower k, or raise n_latents"),
    (TopKConfig(n_latents=8, k=3, multi_k=3), 1, r"k is 9, more than the 8 latents"),
    (BatchTopKConfig(n_latents=8, k=9), 1, r"k is 9, more than the 8 latents"),
    (TopKConfig(n_latents=8, k=2, tuned_only=1), 1, r"residuals of two models: train a crosscoder, or set both to 0"),
    (TopKConfig(n_latents=8, k=2, tuned_only=4, base_only=4), 2, r"make 8 latents, of 8 in all\. Lower them"),
    (GatedConfig(n_latents=8), 2, r"A gated dictionary reads one model .*Choose another kind for a crosscoder"),
    (GatedConfig(n_latents=8, decoder_norm="folded"), 1, r"keeps decoder norms at one"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.5, 0.25]), 1, r"nested \[0\.5, 0\.25\] must ascend between 0 and 1"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.5, 1.0]), 1, r"each step must add a latent"),
    (MatryoshkaConfig(n_latents=8, k=2, nested=[0.01]), 1, r"each step must add a latent"),
]


@pytest.mark.parametrize(("config", "n_models", "message"), UNFIT)
def test_settings_that_do_not_fit_are_refused(config: CoderConfig, n_models: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build(config, Layout(D_IN, n_models), torch.Generator())
