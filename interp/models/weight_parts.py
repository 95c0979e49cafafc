"""Parts of a fine-tune: what it changed in one kind of module of adjacent layers, exchanged between the base and the tuned model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from interp.core.errors import ModelError
from interp.models.language_model import LanguageModel

GROUPS = 8
"""Groups of layers by default, about."""
PIECE = 2**24
"""Numbers of a tensor that are compared together."""
EMBEDDING, UNEMBEDDING, EXPERTS = "embedding", "unembedding", "experts"
_KINDS = {
    "norms": ("norm",),
    "attention": ("attn", "attention"),
    "MLP": ("mlp", "ffn", "feed_forward", "feedforward", "fc", "moe"),
    "recurrence": ("mamba", "ssm", "recurrent", "conv", "rwkv"),
}
"""Kinds of modules, by what their name in the block, or else their class, contains; the first that fits."""


@dataclass(frozen=True)
class WeightPart:
    """Tensors of one kind of module, by their names in the network."""

    kind: str
    """`attention`, `MLP`, `experts`, `norms`, `recurrence`, `embedding`, `unembedding`, else the module's own name."""
    layers: tuple[int, int] | None
    """First and last layer; None for what is in no block, and for a kind in all layers together."""
    tensors: tuple[str, ...]
    squared_change: float
    """Squared Frobenius norm of tuned minus base; tied tensors count once."""
    whole: bool = False
    """Whether it is the sum of several parts: a kind in all layers."""

    def __str__(self) -> str:
        if self.layers is None:
            return f"{self.kind}, all layers" if self.whole else self.kind
        first, last = self.layers
        return f"{self.kind}, layer {first}" if first == last else f"{self.kind}, layers {first}–{last}"


def layer_groups(n_layers: int, group: int | None = None) -> int:
    """Layers of a group: `group`, by default so many that there are at most eight groups."""
    return group or math.ceil(n_layers / GROUPS)


def weight_parts(base: LanguageModel, tuned: LanguageModel, group: int | None = None) -> list[WeightPart]:
    """Every part of both networks, in the order of the layers, with the size of its change: 0 where the fine-tune left it as it was.

    Parts are kinds of modules in `group` adjacent layers (`layer_groups`), and single ones outside of the blocks. Tensors that are tied in
    either model are one. Raises `ModelError` for models that share their weights, have other tensors, or do not differ.
    """
    ours, theirs = (model.network.state_dict(keep_vars=True) for model in (base, tuned))
    if base.network is tuned.network:
        raise ModelError(f"{base.source} and {tuned.source} share one set of weights. Open each by open_model, which merges an adapter.")
    if missing := sorted(ours.keys() ^ theirs.keys()):
        raise ModelError(
            f"{base.source} and {tuned.source} do not have the same weights: {missing[0]} is in one of them alone. Give a base and a "
            "fine-tune of it in the same architecture."
        )
    shapes = [name for name in ours if ours[name].shape[1:] != theirs[name].shape[1:] or ours[name].ndim != theirs[name].ndim]
    if shapes:
        raise ModelError(f"{shapes[0]} has another shape in {tuned.source} than in {base.source}. Give a base and a fine-tune of it.")
    size, places = layer_groups(base.n_layers, group), _Places(base)
    tensors: dict[tuple[str, int | None], list[str]] = {}
    for leader, names in _tied(ours, theirs).items():
        kind, layer = places(leader)
        kind = f"{EMBEDDING} and {UNEMBEDDING}" if len({places(name)[0] for name in names} & {EMBEDDING, UNEMBEDDING}) == 2 else kind
        tensors.setdefault((kind, None if layer is None else layer // size), []).extend(names)
    parts = []
    for (kind, number), names in tensors.items():
        layers = None if number is None else (number * size, min((number + 1) * size, base.n_layers) - 1)
        pairs = {(id(ours[name]), id(theirs[name])): (ours[name], theirs[name]) for name in names}
        parts.append(WeightPart(kind, layers, tuple(names), sum(_squared_change(*pair) for pair in pairs.values())))
    if not any(part.squared_change for part in parts):
        raise ModelError(f"The weights of {tuned.source} are those of {base.source}: the fine-tune changed nothing. Give another model.")
    return sorted(parts, key=lambda part: (part.layers is None, part.layers or (0, 0)))


def whole_kinds(parts: Sequence[WeightPart]) -> list[WeightPart]:
    """Each kind in all of its layers together, where it has several of `parts`, and other kinds are among them."""
    kinds = dict.fromkeys(part.kind for part in parts)
    own = {kind: [part for part in parts if part.kind == kind] for kind in kinds}
    return [
        WeightPart(kind, None, tuple(name for part in its for name in part.tensors), sum(part.squared_change for part in its), whole=True)
        for kind, its in own.items()
        if len(its) > 1 and len(kinds) > 1
    ]


@contextmanager
def exchanged(base: LanguageModel, tuned: LanguageModel, part: WeightPart) -> Iterator[None]:
    """Inside, each model holds the other's tensors of `part`; afterwards both are as before, to the bit, whatever happens inside.

    So the base has this part of the fine-tune alone, and the tuned model all of it but this part. Nothing is copied.
    """
    done: list[str] = []
    try:
        for name in part.tensors:
            _exchange(base.network, tuned.network, name)
            done.append(name)
        yield
    finally:
        for name in done:
            _exchange(base.network, tuned.network, name)


def _exchange(network: Any, other: Any, name: str) -> None:
    # The parameters themselves, not their data: what one model ties and the other does not stays right.
    path, _, attribute = name.rpartition(".")
    ours, theirs = (one.get_submodule(path) for one in (network, other))
    ours, theirs = (one._parameters if attribute in one._parameters else one._buffers for one in (ours, theirs))
    ours[attribute], theirs[attribute] = theirs[attribute], ours[attribute]


def _tied(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names of tensors that are one in either model, by the first of them."""
    leaders: dict[int, str] = {}
    groups: dict[str, list[str]] = {}
    for name in ours:
        ids = id(ours[name]), id(theirs[name])
        leader = next((leaders[one] for one in ids if one in leaders), name)
        leaders.update(dict.fromkeys(ids, leader))
        groups.setdefault(leader, []).append(name)
    return groups


def _squared_change(base: torch.Tensor, tuned: torch.Tensor) -> float:
    if base.shape != tuned.shape:  # embeddings of more tokens in one of the models: of those that both have
        rows = min(len(base), len(tuned))
        base, tuned = base[:rows], tuned[:rows]
    if torch.equal(base, tuned):
        return 0.0
    pieces = zip(tuned.detach().flatten().split(PIECE), base.detach().flatten().split(PIECE), strict=True)
    return sum(float((theirs.double() - ours.double()).square().sum()) for theirs, ours in pieces)


class _Places:
    """Kind and layer of a tensor by its name."""

    def __init__(self, model: LanguageModel) -> None:
        self.modules, self.tensors = dict(model.network.named_modules()), list(model.network.state_dict())
        paths = {id(module): path for path, module in self.modules.items()}
        self.blocks = paths[id(model.blocks)]
        ends = (model.network.get_input_embeddings(), model.network.get_output_embeddings())
        self.ends = {paths[id(layer)]: kind for layer, kind in zip(ends, (EMBEDDING, UNEMBEDDING), strict=True) if layer is not None}
        self.kinds: dict[str, str] = {}

    def __call__(self, name: str) -> tuple[str, int | None]:
        if name.startswith(f"{self.blocks}."):
            layer, child = name.removeprefix(f"{self.blocks}.").split(".")[:2]
            path = f"{self.blocks}.{layer}.{child}"
            if path not in self.kinds:
                self.kinds[path] = self._kind(path, child)
            return self.kinds[path], int(layer)
        end = next((kind for path, kind in self.ends.items() if name.startswith(f"{path}.")), None)
        if end is not None:
            return end, None
        parts, around = name.split("."), self.blocks.split(".")
        while len(parts) > 1 and around and parts[0] == around[0]:
            parts, around = parts[1:], around[1:]
        return ("final norm" if "norm" in parts[0] or parts[0] == "ln_f" else parts[0]), None

    def _kind(self, path: str, child: str) -> str:
        texts = child.lower(), type(self.modules.get(path)).__name__.lower()
        kind = next((kind for text in texts for kind, words in _KINDS.items() if any(word in text for word in words)), child)
        within = (name.removeprefix(path) for name in self.tensors if name.startswith(f"{path}."))
        return EXPERTS if kind == "MLP" and any("expert" in name or "router" in name for name in within) else kind
