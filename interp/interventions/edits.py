"""An intervention as data: what, where, when, how much, and on which condition."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float

from interp.core.errors import EditError
from interp.core.tensors import all_finite
from interp.core.vocabulary import Phase, SinkTokens
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.sae import SAE
from interp.models.hook_points import HookPoint, read_hook_point
from interp.models.language_model import LanguageModel

Kind = Literal["add", "project_out", "set_latents"]


@dataclass(frozen=True, eq=False)
class LatentValues:
    """Latents of an SAE, and the activation that each is set to."""

    dictionary: SAE
    latents: tuple[int, ...]
    values: Float[torch.Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Gate:
    """A condition on a token: the latent's activation, read at the dictionary's hook point, exceeds `above`."""

    dictionary: SAE
    latent: int
    above: float


@dataclass(frozen=True, eq=False)
class Edit:
    """One intervention on the residual stream; make it with `add`, `project_out` or `clamp_latents`.

    `add`: `x + vector`. `project_out`: `x - Q Qᵀ (x - centre)`, Q spanning the directions: what varies along them is held at
    the centre (mean ablation in a subspace). `set_latents`: `x + Σ_j (value_j - a_j(x)) d_j`, with a_j the activation of latent
    j and d_j its decoder row: all else in x stays, the dictionary's error too.
    """

    kind: Kind
    hook_points: tuple[str, ...]
    vectors: Float[torch.Tensor, "hook_points n d_model"]
    """`add`: the vector added at each hook point (n = 1). `project_out`: the same orthonormal rows at each. `set_latents`: the
    decoder rows, the same at each."""
    centres: Float[torch.Tensor, "hook_points d_model"]
    """`project_out`: the value around which is projected; zeros for the others."""
    phase: Phase
    dose: float
    """`add`: norm of the vector over the unit of doses there; of `shift` the multiple of what was measured. The others: 1."""
    label: str
    latents: LatentValues | None = None
    """`set_latents`: which, and to what."""
    gate: Gate | None = None
    """Where given, only tokens that fulfil it are edited."""
    sinks: SinkTokens = "spare"
    """What it does at attention sinks of the prompt (`interp.models.sinks`): left alone, unless it says otherwise."""

    @cached_property
    def key(self) -> str:
        """Hash of everything the edit does."""
        digest = hashlib.sha256(f"{self.kind}|{self.hook_points}|{self.phase}|{self.dose!r}".encode())
        if self.sinks != "edit":  # what all edits did before sinks were told apart
            digest.update(f"|sinks {self.sinks}".encode())
        tensors = [self.vectors, self.centres]
        if self.latents is not None:
            digest.update(f"|latents {self.latents.latents} of {self.latents.dictionary.content}".encode())
            tensors.append(self.latents.values)
        if self.gate is not None:
            digest.update(f"|gate {self.gate.latent} > {self.gate.above!r} of {self.gate.dictionary.content}".encode())
        for tensor in tensors:
            digest.update(tensor.contiguous().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.label or self.kind

    def as_json(self) -> dict[str, Any]:
        """For manifests: everything but the tensors, which the key identifies."""
        record: dict[str, Any] = {
            "kind": self.kind,
            "hook_points": list(self.hook_points),
            "phase": self.phase,
            "sinks": self.sinks,
            "dose": self.dose,
            "n_directions": int(self.vectors.shape[1]),
            "label": self.label,
            "key": self.key,
        }
        if (read := self.latents) is not None:
            record["latents"] = {"dictionary": read.dictionary.content, "latents": list(read.latents), "values": read.values.tolist()}
        if (gate := self.gate) is not None:
            record["gate"] = {"dictionary": gate.dictionary.content, "latent": gate.latent, "above": gate.above}
        return record

    def at_sinks(self, sinks: SinkTokens) -> Edit:
        """The same edit, doing this at attention sinks."""
        return replace(self, sinks=sinks)

    def check_width(self, model: LanguageModel) -> None:
        """Raise `EditError` unless the edit, and the dictionary that its condition reads, are as wide as the model's stream."""
        for width in (self.vectors.shape[-1], self.gate.dictionary.d_in if self.gate is not None else model.d_model):
            if width != model.d_model:
                raise EditError(f"The edit '{self.name}' has width {width}, {model.source} has {model.d_model}.")

    def only_where(self, dictionary: Dictionary, latent: int, above: float = 0.0) -> Edit:
        """The same edit, at those tokens alone where the latent's activation exceeds `above`.

        It is read in the same pass, at the same token, at the dictionary's hook point, after the edits that come earlier.
        Raises `EditError` for an edit that has a condition already, for a latent that the dictionary lacks, and where a hook
        point of the edit comes before the one that is read.
        """
        if self.gate is not None:
            raise EditError(f"The edit '{self.name}' has a condition already. Put a second condition on an edit of its own.")
        sae = _readable(dictionary, [latent])
        if not 0 <= above < math.inf:
            raise EditError(f"An activation is never below 0, so 'above {above}' is no condition. Give 0 or a finite positive value.")
        early = [name for name in self.hook_points if _place(name) < _place(dictionary.hook_point)]
        if early:
            raise EditError(
                f"{early[0]} is edited before latent {latent} is read at {dictionary.hook_point}. Edit at that hook point or after it."
            )
        return replace(self, gate=Gate(sae, latent, float(above)))


def add(
    direction: Float[torch.Tensor, " d_model"], units: Mapping[str, float], dose: float, phase: Phase = "response", label: str = ""
) -> Edit:
    """Add `direction` at every hook point of `units`, with norm `dose` × the unit there (a typical residual norm: see `Edit.dose`).

    Raises `EditError` for a zero direction, dose or unit, or a bad phase: it would change nothing.
    """
    _check(direction[None], list(units), phase)
    if not 0 < dose < math.inf:
        raise EditError(f"A dose of {dose} cannot be added. Give a positive dose; flip the direction to subtract it.")
    for name, norm in units.items():
        if not 0 < norm < math.inf:
            raise EditError(f"The unit of doses at {name} is {norm}, so a dose means nothing there. Measure it on chats with a response.")
    unit = direction.float() / direction.float().norm()
    vectors = torch.stack([unit * (dose * norm) for norm in units.values()])[:, None]
    return Edit("add", tuple(units), vectors, torch.zeros(len(units), len(direction)), phase, dose, label)


def shift(vectors: Mapping[str, Float[torch.Tensor, " d_model"]], strength: float, phase: Phase = "all", label: str = "") -> Edit:
    """Add `strength` times the vector given for each hook point; a negative strength subtracts it.

    Raises `EditError` where no vector has a length, for a strength of zero, or a bad phase: it would change nothing.
    """
    if not vectors or strength == 0 or not math.isfinite(strength):
        raise EditError(f"A shift of {strength} at {len(vectors)} hook points changes nothing. Give a strength and at least one vector.")
    rows = torch.stack([vector.float() for vector in vectors.values()])
    _check(rows, list(vectors), phase)
    return Edit("add", tuple(vectors), strength * rows[:, None], torch.zeros_like(rows), phase, abs(strength), label)


def project_out(
    directions: Float[torch.Tensor, "n d_model"],
    centres: Mapping[str, Float[torch.Tensor, " d_model"]],
    phase: Phase = "all",
    label: str = "",
) -> Edit:
    """Project the span of `directions` out at every hook point of `centres`, around the centre given for it.

    Raises `EditError` for a zero direction, a centre of another width, or when the directions depend on one another.
    """
    _check(directions, list(centres), phase)
    for name, centre in centres.items():
        if centre.shape != directions.shape[1:] or not bool(torch.isfinite(centre).all()):
            raise EditError(f"The centre at {name} is not {directions.shape[1]} finite numbers. Give a mean residual of that place.")
    basis, triangular = torch.linalg.qr(directions.double().T)
    if len(directions) > directions.shape[1] or bool((triangular.diagonal().abs() < 1e-5 * directions.double().norm(dim=-1)).any()):
        raise EditError("The directions to project out depend on one another. Remove duplicates.")
    vectors = basis.T.float().contiguous().expand(len(centres), -1, -1)
    return Edit("project_out", tuple(centres), vectors, torch.stack([c.float() for c in centres.values()]), phase, 1.0, label)


def clamp_latents(
    dictionary: Dictionary,
    latents: Sequence[int],
    values: float | Sequence[float] | Float[torch.Tensor, " n"] = 0.0,
    hook_points: Sequence[str] | None = None,
    phase: Phase = "all",
    label: str = "",
) -> Edit:
    """Hold the activations of `latents` at `values` (one for all, or one each; 0 takes what they add away), whether they fire or not.

    Only their contribution changes; the error of the dictionary is kept (Templeton et al. 2024, "Scaling Monosemanticity").
    At their mean activations this is mean ablation. At hook points other than the dictionary's own (the default) the same
    encoder reads what stands there. Raises `EditError` for latents that the dictionary lacks or that are named twice, a zero
    decoder row, values that are not finite, a dictionary of model differences, or a bad phase.
    """
    sae = _readable(dictionary, latents)
    names = [dictionary.hook_point] if hook_points is None else list(hook_points)
    rows = sae.w_dec[list(latents)].detach().float().cpu()
    _check(rows, names, phase)
    if len(set(names)) < len(names) or "" in names:
        raise EditError(f"The hook points {names} hold one twice, or an empty one. Name each place once.")
    targets = torch.as_tensor(values, dtype=torch.float32).detach().cpu()
    if targets.shape not in ((), (len(latents),)) or not bool(torch.isfinite(targets).all()):
        raise EditError(f"Values of shape {list(targets.shape)} for {len(latents)} latents. Give a finite number for all, or one each.")
    set_to = LatentValues(sae, tuple(int(latent) for latent in latents), targets.expand(len(latents)).clone())
    centres = torch.zeros(len(names), dictionary.d_in)
    return Edit("set_latents", tuple(names), rows.expand(len(names), -1, -1), centres, phase, 1.0, label, set_to)


def random_directions(n: int, d_model: int, seed: int) -> Float[torch.Tensor, "n d_model"]:
    """Independent directions of norm one, uniform on the sphere: the control for any found direction."""
    drawn = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def _place(name: str) -> HookPoint:
    point = read_hook_point(name)
    if point is None:
        raise EditError(f"'{name}' is no hook point, so where it comes is not known. Write it like blocks.3.hook_resid_post.")
    return point


def _readable(dictionary: Dictionary, latents: Sequence[int]) -> SAE:
    """The dictionary, where one model's residuals tell what its latents do there."""
    bad = [latent for latent in latents if not 0 <= latent < dictionary.n_latents]
    if bad or not len(latents):
        raise EditError(f"The dictionary has latents 0 to {dictionary.n_latents - 1}, not {bad or 'none at all'}. Name those that it has.")
    if len(set(latents)) < len(latents):
        raise EditError(f"The latents {list(latents)} hold one twice. Name each once.")
    if dictionary.reads:
        raise EditError(f"The dictionary reads the {dictionary.reads} of two models, and one runs here. Give one of residuals.")
    if not isinstance(dictionary, SAE):
        raise EditError(
            f"The crosscoder reads {dictionary.n_models} models at once, and one runs here, so its latents have no activation. "
            "Project their directions out (or add them) instead, or give an SAE."
        )
    return dictionary


def _check(directions: torch.Tensor, hook_points: Sequence[str], phase: str) -> None:
    if not hook_points:
        raise EditError("An edit without a hook point changes nothing. Name at least one.")
    if phase not in get_args(Phase):
        raise EditError(f"There is no phase '{phase}'. Use {', '.join(get_args(Phase))}.")
    if not directions.numel() or not all_finite(directions) or bool((directions.norm(dim=-1) == 0).any()):
        raise EditError("A direction is zero or not finite. Give one with a norm.")
