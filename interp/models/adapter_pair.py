"""A base and its fine-tune: where the fine-tune is a LoRA adapter, both share one set of weights.

The adapter is not merged; it is switched off while the base computes and on while the tuned model does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from interp.models.adapters import adapter_config, changes_nothing, load_adapter, probe_logits
from interp.models.cpu.packed_linear import unpacked_copy
from interp.models.language_model import LanguageModel, Positions, check_pair
from interp.models.sources import choose_device, choose_dtype, open_model, open_network

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def open_pair(
    base: str, tuned: str, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[LanguageModel, LanguageModel]:
    """Base and tuned model. For an adapter folder (or hub id) they share their weights; whatever runs one leaves the other as it is.

    One of them can run at a time. An adapter whose removal does not give back the base exactly (trained biases, PiSSA) is merged
    into a second copy instead. Raises `ModelError` as `open_model` does: an adapter that does not fit, or changes nothing;
    and for two models that do not belong together.
    """
    adapter = adapter_config(tuned)
    pair = None
    if adapter is not None and adapter.get("peft_type") == "LORA" and adapter.get("bias", "none") == "none":
        pair = _shared_pair(base, tuned, choose_device(device), dtype, trust_remote_code)
    if pair is None:
        pair = (
            open_model(base, None, device, dtype, trust_remote_code),
            open_model(tuned, base if adapter is not None else None, device, dtype, trust_remote_code),
        )
        check_pair(*pair)
    return pair


def _shared_pair(
    base: str, tuned: str, device: torch.device, dtype: str, trust_remote_code: bool
) -> tuple[LanguageModel, LanguageModel] | None:
    """None where the base cannot be had back by switching the adapter off."""
    network, tokenizer = open_network(base, None, choose_dtype(dtype, device), trust_remote_code)
    before = probe_logits(network)
    wrapped = load_adapter(network, tuned, base)
    switch = _Switch(wrapped)
    with switch.set(True):
        if torch.equal(before, probe_logits(network)):
            raise changes_nothing(tuned, base)
    with switch.set(False):
        if not torch.equal(before, probe_logits(network)):
            return None
    wrapped.to(device)
    return _Toggled(wrapped, tokenizer, base, switch, False), _Toggled(wrapped, tokenizer, tuned, switch, True)


class _Switch:
    """The adapter's layers, all on or all off."""

    def __init__(self, wrapped: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self.layers: list[Any] = [module for module in wrapped.modules() if isinstance(module, kinds)]

    @contextmanager
    def set(self, on: bool) -> Iterator[None]:
        """On or off inside the block; afterwards as before, whatever happens inside."""
        # peft's own switch turns gradients on with the adapter and walks the whole network each time.
        before = [layer._disable_adapters for layer in self.layers]
        try:
            for layer in self.layers:
                layer._disable_adapters = not on
            yield
        finally:
            for layer, state in zip(self.layers, before, strict=True):
                layer._disable_adapters = state


class _Toggled(LanguageModel):
    """One of two models on the same weights. Hooks put on it act while it runs, not while the other one does."""

    def __init__(self, wrapped: Any, tokenizer: Any, source: str, switch: _Switch, adapted: bool) -> None:
        super().__init__(wrapped.get_base_model(), tokenizer, source)
        self.wrapped, self.switch, self.adapted = wrapped, switch, adapted

    @contextmanager
    def standing(self, positions: Positions) -> Iterator[None]:
        """As of any model, and the adapter is on or off as this one needs it."""
        with self.switch.set(self.adapted), super().standing(positions):
            yield

    def block(self, layer: int) -> torch.nn.Module:
        """Transformer block `layer`, counted from 0, for hooks alone."""
        return cast(torch.nn.Module, _OwnHooks(self, super().block(layer)))

    def bridge(self) -> Any:
        """A TransformerLens bridge on a copy, the adapter merged into it or taken out."""
        from transformer_lens.model_bridge import TransformerBridge

        plain: Any = unpacked_copy(self.wrapped)
        network = plain.merge_and_unload() if self.adapted else plain.unload()
        return TransformerBridge.boot_transformers(self.source, hf_model=network, tokenizer=copy.deepcopy(self.tokenizer))


class _OwnHooks:
    """A shared block, or a part of one, whose hooks run only while their own model does."""

    def __init__(self, model: LanguageModel, block: torch.nn.Module) -> None:
        self.model, self.shared = model, block

    def __getattr__(self, name: str) -> Any:
        part = getattr(self.shared, name)
        return _OwnHooks(self.model, part) if isinstance(part, torch.nn.Module) else part

    def _own(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def own(*args: Any) -> Any:
            return hook(*args) if self.model.positions is not None else None

        own.of_model = self.model  # type: ignore[attr-defined]
        return own

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        return self.shared.register_forward_hook(self._own(hook))

    def register_forward_pre_hook(self, hook: Callable[..., Any], with_kwargs: bool = False) -> RemovableHandle:
        return self.shared.register_forward_pre_hook(self._own(hook), with_kwargs=with_kwargs)
