"""Frozen linear layers by oneDNN on the CPU: about twice as fast as the default float32 path, and exact to rounding.

Weights are copied once into oneDNN's blocked layout. A layer whose weight takes a gradient is computed as usual, and one whose
weight changed is packed again: torch counts the changes of a tensor, and `_Weight` those through `.data`, which torch does not.
The forward and the input gradient (for adapters on frozen layers) both use it.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import nn

from interp.models.cpu import use_fast_paths

BATCH_HINT = 256  # rows that oneDNN lays the weights out for; other sizes work as well


class _Weight(nn.Parameter):
    """A weight whose `.data`, which may be written to, counts as a change when it is taken, as when peft merges an adapter."""

    @property
    def data(self) -> torch.Tensor:
        self._count()
        return cast(torch.Tensor, torch.Tensor.data.__get__(self))  # type: ignore[attr-defined]

    @data.setter
    def data(self, data: torch.Tensor) -> None:
        self._count()
        torch.Tensor.data.__set__(self, data)  # type: ignore[attr-defined]

    def _count(self) -> None:
        torch._C._autograd._unsafe_set_version_counter((self,), (self._version + 1,))


class _Packed:
    """A linear layer's weight in oneDNN's layout, made on first use; the transposed one on the first backward pass."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.state: list[Any] = []
        self.weight: Any = None
        self.transposed: torch.Tensor | None = None

    def __call__(self, x: Float[torch.Tensor, "*rows d_in"]) -> Float[torch.Tensor, "*rows d_out"]:
        weight = self.layer.weight
        if torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad):
            if weight.requires_grad:
                return nn.functional.linear(x, weight, self.layer.bias)
            return _FrozenLinear.apply(x, self)
        return self.forward(x)

    def dependencies(self) -> list[torch.Tensor]:
        """Tensors that the product depends on."""
        return [self.layer.weight]

    def scale(self) -> Any:
        """Numbers that the product depends on."""
        return None

    def product_weight(self) -> Float[torch.Tensor, "d_out d_in"]:
        """What `x` is multiplied by."""
        return self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = [*((tensor.data_ptr(), tensor._version) for tensor in self.dependencies()), self.scale()]
        if state != self.state:
            self.weight, self.transposed, self.state = pack_weight(self.product_weight()), None, state
            for tensor in self.dependencies():
                if type(tensor) is nn.Parameter:
                    tensor.__class__ = _Weight
        return apply_packed(x, self.weight, self.layer.bias)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.transposed is None:
            self.transposed = pack_weight(self.product_weight().T.contiguous())
        return apply_packed(gradient, self.transposed, None)


class _PackedLora(_Packed):
    """The layer with its adapter: one product while the adapter is not being trained, two with the update added in place while it is."""

    def __call__(self, x: Float[torch.Tensor, "*rows d_in"], *args: Any, **kwargs: Any) -> Float[torch.Tensor, "*rows d_out"]:
        layer: Any = self.layer
        biased = any(layer.lora_bias[name] for name in layer.active_adapters if name in layer.lora_A)
        if args or kwargs or layer.disable_adapters or layer.merged or layer.lora_variant or biased:
            return type(layer).forward(layer, x, *args, **kwargs)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.dependencies()):
            factors = self.trainable()
            return type(layer).forward(layer, x) if factors is None else _TrainedLora.apply(x, *factors, vars(layer.base_layer)["forward"])
        if layer.training:
            return type(layer).forward(layer, x)
        return _FrozenLinear.apply(x, self) if torch.is_grad_enabled() and x.requires_grad else self.forward(x)

    def trainable(self) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """Both factors and the scale, where there is one adapter without dropout or bias on a frozen layer."""
        layer: Any = self.layer
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        if layer.weight.requires_grad or len(names) != 1 or type(layer.lora_dropout[names[0]]) is not nn.Identity:
            return None
        a, b = layer.lora_A[names[0]], layer.lora_B[names[0]]
        return (a.weight, b.weight, layer.scaling[names[0]]) if b.bias is None else None

    def dependencies(self) -> list[torch.Tensor]:
        layer: Any = self.layer
        active = [name for name in layer.active_adapters if name in layer.lora_A]
        return [layer.weight, *(factor[name].weight for name in active for factor in (layer.lora_A, layer.lora_B))]

    def scale(self) -> Any:
        layer: Any = self.layer
        return [(name, layer.scaling[name]) for name in layer.active_adapters if name in layer.lora_A]

    def product_weight(self) -> Float[torch.Tensor, "d_out d_in"]:
        layer: Any = self.layer
        update = sum(layer.get_delta_weight(name) for name in layer.active_adapters if name in layer.lora_A)
        return layer.weight.detach() + update


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: _Packed) -> torch.Tensor:
        ctx.packed = packed
        return packed.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.packed.backward(gradients[0].contiguous()), None


class _TrainedLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, base: _Packed) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = (rows @ a.T).mul_(scale)
        ctx.save_for_backward(rows, a, b, inner)
        ctx.scale, ctx.base = scale, base
        output = base.forward(x)
        output.view(-1, output.shape[-1]).addmm_(inner, b.T)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, None, None]:
        rows, a, b, inner = ctx.saved_tensors
        whole = gradients[0].contiguous()
        gradient = whole.view(-1, whole.shape[-1])
        of_inner = (gradient @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.base.backward(whole)
            of_x.view(-1, of_x.shape[-1]).addmm_(of_inner, a)
        return of_x, of_inner.T @ rows, gradient.T @ inner, None, None


def _is_lora(layer: nn.Module) -> bool:
    """Whether `layer` is peft's LoRA around a plain linear layer."""
    lora = sys.modules.get("peft.tuners.lora.layer")  # not imported: without it no layer is one
    return lora is not None and type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN is there, may be used, and takes this weight."""
    return use_fast_paths() and torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack_weight(weight: Float[torch.Tensor, "d_out d_in"]) -> torch.Tensor:
    """A copy of `weight` in oneDNN's layout, for `apply_packed` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), BATCH_HINT)


def apply_packed(
    x: Float[torch.Tensor, "*rows d_in"], weight: torch.Tensor, bias: Float[torch.Tensor, " d_out"] | None
) -> Float[torch.Tensor, "*rows d_out"]:
    """`x @ weight.T + bias` with a packed weight; no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None if bias is None else bias.detach(), "none", [], "")


def pack_linears(network: nn.Module) -> int:
    """Let every float32 `nn.Linear` on the CPU compute by oneDNN; returns how many. Where torch lacks oneDNN: 0, nothing changed."""
    packed = 0
    layer: Any
    for layer in network.modules():
        kind = _Packed if type(layer) is nn.Linear else _PackedLora if _is_lora(layer) else None
        if kind is not None and can_pack(layer.weight):
            vars(layer)["forward"] = kind(layer)
            packed += 1
    return packed


def release_gradients(network: nn.Module) -> None:
    """Give up what only backward passes need, a second copy of the weights; the next one makes it again."""
    for layer in network.modules():
        if isinstance(pack := vars(layer).get("forward"), _Packed):
            pack.transposed = None


def unpacked_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose linear layers are plain again."""
    packs = {id(layer): vars(layer).pop("forward") for layer in network.modules() if isinstance(vars(layer).get("forward"), _Packed)}
    try:
        return copy.deepcopy(network)
    finally:
        for layer in network.modules():
            if id(layer) in packs:
                vars(layer)["forward"] = packs[id(layer)]
