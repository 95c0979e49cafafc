"""Packed linear layers equal plain ones, forward and backward, and notice when a weight changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from interp.models.cpu.packed_linear import _Packed, pack_linears, release_gradients, unpacked_copy
from tests.helpers.tiny import ask_all, tiny_model, tiny_network

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")

SHAPES = [(48, 80, True), (80, 48, False), (5, 3, True), (1, 7, True), (300, 2, False)]


def packed_layer(d_in: int, d_out: int, bias: bool = True, frozen: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(d_in, d_out, bias)
    layer.requires_grad_(not frozen)
    assert pack_linears(layer) == 1
    return layer


def plain(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize(("d_in", "d_out", "bias"), SHAPES)
@pytest.mark.parametrize("rows", [(1,), (300,), (4, 33), (2, 3, 5), ()])
def test_the_forward_equals_the_plain_layer(d_in: int, d_out: int, bias: bool, rows: tuple[int, ...]) -> None:
    layer = packed_layer(d_in, d_out, bias)
    x = torch.randn(*rows, d_in)
    torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("d_in", "d_out", "bias"), SHAPES)
def test_the_input_gradient_equals_that_of_the_plain_layer(d_in: int, d_out: int, bias: bool) -> None:
    layer = packed_layer(d_in, d_out, bias)
    x = torch.randn(4, 9, d_in, requires_grad=True)
    weights = torch.randn(4, 9, d_out)
    (found,) = torch.autograd.grad((layer(x).tanh() * weights).sum(), x)
    (expected,) = torch.autograd.grad((plain(layer, x).tanh() * weights).sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    (through_a_view,) = torch.autograd.grad(layer(x).mT.sum(), x)  # a gradient that is not contiguous
    torch.testing.assert_close(through_a_view, torch.autograd.grad(plain(layer, x).sum(), x)[0], atol=1e-4, rtol=1e-4)


def test_inputs_that_are_not_contiguous_are_right() -> None:
    layer = packed_layer(48, 80)
    for x in (torch.randn(48, 10).T, torch.randn(10, 96)[:, ::2], torch.randn(1, 48).expand(6, -1), torch.randn(3, 48, 4).mT):
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-4, rtol=1e-4)


def test_a_weight_that_takes_a_gradient_is_computed_as_usual() -> None:
    layer = packed_layer(48, 80, frozen=False)
    x = torch.randn(7, 48, requires_grad=True)
    output = layer(x)
    assert torch.equal(output, plain(layer, x))
    output.square().sum().backward()
    found = [layer.weight.grad.clone(), layer.bias.grad.clone(), x.grad.clone()]
    layer.zero_grad()
    x.grad = None
    plain(layer, x).square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(found, [layer.weight.grad, layer.bias.grad, x.grad], strict=True))


def test_training_a_weight_is_seen_when_it_is_used_packed() -> None:
    layer = packed_layer(48, 80, frozen=False)
    x = torch.randn(7, 48)
    with torch.no_grad():
        layer(x)  # packed
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-4, rtol=1e-4)


def in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def one_entry(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[7, 11] += 5


def new_data(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data + 1


def new_data_twice(layer: nn.Linear) -> None:  # the second often lands where the first lay
    layer.weight.data = layer.weight.data + 1
    layer.weight.data = layer.weight.data + 1


def data_in_place(layer: nn.Linear) -> None:  # as peft merges an adapter
    layer.weight.data += torch.outer(torch.randn(80), torch.randn(48))


def one_entry_of_data(layer: nn.Linear) -> None:
    layer.weight.data[7, 11] += 5


def data_scaled(layer: nn.Linear) -> None:
    layer.weight.data.mul_(1.01)


def new_parameter(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.randn(80, 48), requires_grad=False)


def loaded(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.randn(80, 48), "bias": torch.randn(80)})


def new_bias(layer: nn.Linear) -> None:
    layer.bias.data += 3


CHANGES = [in_place, one_entry, new_data, new_data_twice, data_in_place, one_entry_of_data, data_scaled, new_parameter, loaded, new_bias]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_packed_anew(change: Callable[[nn.Linear], None]) -> None:
    layer = packed_layer(48, 80)
    x = torch.randn(6, 48, requires_grad=True)
    before = layer(x)
    before.sum().backward()  # both layouts are made
    change(layer)
    after = layer(x)
    torch.testing.assert_close(after, plain(layer, x), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)
    (found,) = torch.autograd.grad(after.sum(), x)
    (expected,) = torch.autograd.grad(plain(layer, x).sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_only_float32_linears_of_the_plain_kind_are_packed() -> None:
    class Own(nn.Linear):
        pass

    network = nn.Sequential(
        nn.Linear(3, 3), nn.Linear(3, 3, dtype=torch.bfloat16), nn.LayerNorm(3), Own(3, 3), nn.Linear(3, 3, device="meta")
    )
    assert pack_linears(network) == 1
    assert [isinstance(vars(layer).get("forward"), _Packed) for layer in network] == [True, False, False, False, False]


def test_a_packed_model_reads_as_the_plain_one() -> None:
    for family in ("llama", "gpt_neox"):
        model = tiny_model(3, family)
        network = tiny_network(family, 3)
        assert not any("forward" in vars(module) for module in network.modules())
        for tokenised in model.tokenise(ask_all()):
            ids = torch.tensor([tokenised.ids])
            with torch.inference_mode():
                torch.testing.assert_close(model.network(ids).logits, network(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_unpacked_copy_is_plain_and_leaves_the_original_packed() -> None:
    model = tiny_model(3)
    linears = [module for module in model.network.modules() if type(module) is nn.Linear]
    packs = [vars(layer)["forward"] for layer in linears]
    assert len(linears) == 3 * 7 + 1
    copied = unpacked_copy(model.network)
    assert not any("forward" in vars(module) for module in copied.modules())
    assert [vars(layer)["forward"] for layer in linears] == packs
    assert all(isinstance(pack, _Packed) and pack.layer is layer for pack, layer in zip(packs, linears, strict=True))
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        expected = model.network(ids).logits
        torch.testing.assert_close(copied(ids).logits, expected, atol=1e-4, rtol=1e-4)
        for parameter in copied.parameters():
            parameter.zero_()
        assert torch.equal(model.network(ids).logits, expected)  # no weight is shared


def test_a_failed_copy_leaves_the_original_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = packed_layer(48, 80)

    def refuse(_network: object) -> None:
        raise MemoryError

    monkeypatch.setattr("interp.models.cpu.packed_linear.copy.deepcopy", refuse)
    with pytest.raises(MemoryError):
        unpacked_copy(layer)
    assert isinstance(vars(layer)["forward"], _Packed)


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = nn.Linear(4, 4)
    assert pack_linears(layer) == 0
    assert "forward" not in vars(layer)


def lora_layer(dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    """peft's layer with an adapter, and a packed copy."""
    torch.manual_seed(0)
    network: Any = get_peft_model(
        nn.Sequential(nn.Linear(48, 80)), LoraConfig(r=4, lora_alpha=6, target_modules=["0"], lora_dropout=dropout)
    )
    with torch.no_grad():
        network.base_model.model[0].lora_B["default"].weight.normal_()
    packed = copy.deepcopy(network)
    assert pack_linears(packed) == 4  # the layer, what it wraps, both factors
    return network, packed


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("rows", [(7,), (3, 5)])
def test_an_adapter_is_trained_as_peft_does(leaf: bool, rows: tuple[int, ...]) -> None:
    x = torch.randn(*rows, 48)
    outputs, gradients = [], []
    for network in lora_layer():
        own = x.clone().requires_grad_(leaf)
        output = network(own)
        output.tanh().sum().backward()
        outputs.append(output)
        gradients.append([p.grad for p in network.parameters() if p.requires_grad] + ([own.grad] if leaf else []))
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)


def test_an_adapter_with_dropout_is_left_to_peft() -> None:
    plain_network, packed = lora_layer(dropout=0.5)
    results = []
    for network in (plain_network, packed):
        torch.manual_seed(1)
        results.append(network.train()(torch.ones(6, 48)))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


def test_what_backward_passes_need_can_be_given_up_and_is_made_again() -> None:
    layer = packed_layer(48, 80)
    x = torch.randn(6, 48, requires_grad=True)
    (before,) = torch.autograd.grad(layer(x).sum(), x)
    release_gradients(layer)
    assert vars(layer)["forward"].transposed is None
    assert torch.equal(torch.autograd.grad(layer(x).sum(), x)[0], before)
