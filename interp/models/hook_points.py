"""Hook points: TransformerLens names on Hugging Face modules.

`blocks.L.hook_resid_post` is what block L writes out (Hugging Face `hidden_states[L + 1]`), `blocks.L.hook_resid_pre` what
it reads, `blocks.L.hook_resid_mid` the stream between its attention and its MLP; layers count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, Any

from interp.core.errors import HookPointError, ModelError, did_you_mean
from interp.models.families import BLOCK_PATHS, MLP_NORMS

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle

SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
"""In the order of the forward pass."""
_PATTERN = re.compile(rf"blocks\.(\d+)\.({'|'.join(SITES)})")


@total_ordering
@dataclass(frozen=True)
class HookPoint:
    """A place in the residual stream. Sorted as the forward pass meets them."""

    layer: int
    site: str = "hook_resid_post"

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.site}"

    def __lt__(self, other: HookPoint) -> bool:
        return (self.layer, SITES.index(self.site)) < (other.layer, SITES.index(other.site))


def resid_post(layer: int) -> str:
    """Name of the residual stream after block `layer`."""
    return str(HookPoint(layer))


def read_hook_point(name: str) -> HookPoint | None:
    """`name` as a place in the stream of a model of any depth; None where it is none."""
    match = _PATTERN.fullmatch(name)
    return HookPoint(int(match[1]), match[2]) if match else None


def parse_hook_point(name: str, n_layers: int) -> HookPoint:
    """`name` as a hook point; raises `HookPointError` proposing the nearest name where no model of that depth has such.

    Whether a block has a stream between attention and MLP is for `has_mid` to say.
    """
    point = read_hook_point(name)
    if point is not None and point.layer < n_layers:
        return point
    known = [str(HookPoint(layer, site)) for layer in range(n_layers) for site in SITES]
    raise HookPointError(
        f"The model has no hook point '{name}'.{did_you_mean(name, known, cutoff=0.0)} "
        f"Layers run from 0 to {n_layers - 1}; sites are {', '.join(SITES)}."
    )


def find_blocks(network: nn.Module) -> nn.ModuleList:
    """The list of transformer blocks; raises `ModelError` for an architecture whose blocks are not where they are known."""
    for path in BLOCK_PATHS:
        with suppress(AttributeError):
            blocks: Any = network.get_submodule(path)
            if len(blocks):
                return blocks
    raise ModelError(
        f"Cannot find the transformer blocks of {type(network).__name__} (looked at {', '.join(BLOCK_PATHS)}). "
        "Use a decoder-only language model of a supported family."
    )


def has_mid(block: nn.Module) -> bool:
    """Whether the block is known to have a stream between attention and MLP; in a parallel one both read the same residual."""
    return block._get_name() in MLP_NORMS and not getattr(block, "use_parallel_residual", False)


def check_site(block: nn.Module, site: str) -> None:
    """Raise `HookPointError` where `block` has no such site."""
    if site != "hook_resid_mid" or has_mid(block):
        return
    name = block._get_name()
    reason = "its attention and MLP read the same residual" if name in MLP_NORMS else f"it is not one of {', '.join(MLP_NORMS)}"
    raise HookPointError(f"A {name} has no {site}: {reason}. Use hook_resid_pre or hook_resid_post.")


def attach(
    block: nn.Module, site: str, visit: Callable[[torch.Tensor], torch.Tensor | None], owner: object | None = None
) -> RemovableHandle:
    """Call `visit` with the residual `[batch, position, d_model]` at `site`; what it returns replaces the residual.

    At `hook_resid_mid` it is replaced in place: keep a copy, not the tensor, if others edit there. `owner` is the model whose
    passes the hook is for, where several share the block. Raises `HookPointError` where the block has no such site.
    """
    check_site(block, site)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        changed = visit(args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        changed = visit(output[0] if isinstance(output, tuple) else output)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    def within(_module: nn.Module, args: tuple[Any, ...]) -> None:
        changed = visit(args[0])
        if changed is not None:  # in place, for the block adds this very tensor to what its MLP writes
            args[0].copy_(changed)

    for hook in (before, after, within):
        hook.owner = owner  # type: ignore[union-attr]
    if site == "hook_resid_mid":
        return getattr(block, MLP_NORMS[block._get_name()]).register_forward_pre_hook(within)
    if site == "hook_resid_pre":
        return block.register_forward_pre_hook(before, with_kwargs=True)
    return block.register_forward_hook(after)
