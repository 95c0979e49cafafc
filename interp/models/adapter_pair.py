"""A base and its fine-tune: where the fine-tune is a LoRA adapter, both share one set of weights.

The adapter is not merged; it is switched off while the base computes and on while the tuned model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from interp.models.adapters import adapter_config, check_change, load_adapter, probe_logits, saved_rows
from interp.models.cpu.packed_linear import unpacked_copy
from interp.models.language_model import LanguageModel, Positions, check_pair
from interp.models.sources import add_tokens, at_revision, choose_device, choose_dtype, open_model, open_network
from interp.models.tokenizer_files import adapter_generation, adapter_tokenizer, added_tokens

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def open_pair(
    base: str,
    tuned: str,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    thinking: bool = False,
) -> tuple[LanguageModel, LanguageModel]:
    """Base and tuned model. For an adapter folder (or hub id) they share their weights; whatever runs one leaves the other as it is.

    One of them can run at a time. An adapter whose removal does not give back the base exactly (trained biases, PiSSA) is merged
    into a second copy instead, as is one with whole embeddings of its own. Both are asked as `open_model` says, and the base has embeddings
    of the tokens that the tuned model adds. Raises `ModelError` as `open_model` does: an adapter that does not fit, or changes nothing;
    and for two models that do not belong together.
    """
    tuned = at_revision(tuned)
    adapter = adapter_config(tuned)
    if adapter is not None and adapter.get("peft_type") == "LORA" and adapter.get("bias", "none") == "none":
        shared = _shared_pair(base, tuned, adapter, choose_device(device), dtype, trust_remote_code, thinking)
        if shared is not None:
            return shared
    own = open_model(base, None, device, dtype, trust_remote_code, thinking, read_beside=tuned)
    other = open_model(tuned, base if adapter is not None else None, device, dtype, trust_remote_code, thinking)
    check_pair(own, other)
    other.base = own
    return own, other


def _shared_pair(
    base: str, tuned: str, adapter: dict[str, Any], device: torch.device, dtype: str, trust_remote_code: bool, thinking: bool
) -> tuple[LanguageModel, LanguageModel] | None:
    """None where the base cannot be had back by switching the adapter off."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    network, tokenizer = open_network(base, None, choose_dtype(dtype, device), trust_remote_code)
    own = adapter_tokenizer(tuned, tokenizer, network.config, trust_remote_code)
    rows = saved_rows(network, tuned) or 0
    if rows and (not adapter.get("modules_to_save") or rows < len(network.get_input_embeddings().weight)):
        return None
    add_tokens(network, base, added_tokens(own, tokenizer), tuned, rows)
    before = probe_logits(network)
    wrapped = load_adapter(network, tuned, base)
    layers = [module for module in wrapped.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    with _adapted(layers, True):
        check_change(before, probe_logits(network), tuned, base)
    with _adapted(layers, False):
        if not torch.equal(before, probe_logits(network)):
            return None
    wrapped.to(device)
    pair = _Toggled(wrapped, tokenizer, base, layers, False, thinking), _Toggled(wrapped, own, tuned, layers, True, thinking)
    pair[1].base, pair[1].own_generation = pair[0], adapter_generation(tuned)
    check_pair(*pair)
    return pair


@contextmanager
def _adapted(layers: Sequence[Any], on: bool) -> Iterator[None]:
    """The adapter's layers on or off inside the block; afterwards as before, whatever happens inside."""
    # peft's own switch turns gradients on with the adapter and walks the whole network each time.
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = not on
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer._disable_adapters = state


class _Toggled(LanguageModel):
    """One of two models on the same weights. Hooks put on it act while it runs, not while the other one does."""

    own_generation: Any = None
    """The generation config that the adapter brings."""

    def __init__(self, wrapped: Any, tokenizer: Any, source: str, layers: Sequence[Any], adapted: bool, thinking: bool) -> None:
        super().__init__(wrapped.get_base_model(), tokenizer, source, thinking)
        self.wrapped, self.layers, self.adapted = wrapped, layers, adapted

    @property
    def generation(self) -> Any:
        """The adapter's own, else that of the base."""
        return self.own_generation or super().generation

    @contextmanager
    def standing(self, positions: Positions) -> Iterator[None]:
        """As of any model, and the adapter is on or off as this one needs it."""
        with _adapted(self.layers, self.adapted), super().standing(positions):
            yield

    def attach(self, name: str, visit: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
        """As of any model, while this one runs."""

        def own(residual: torch.Tensor) -> torch.Tensor | None:
            return visit(residual) if self.positions is not None else None

        return super().attach(name, own)

    def plain_copy(self) -> Any:
        """As of any model, the adapter merged into it or taken out."""
        plain: Any = unpacked_copy(self.wrapped)
        return plain.merge_and_unload() if self.adapted else plain.unload()
