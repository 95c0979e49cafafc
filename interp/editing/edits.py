"""An intervention as data: what, where, when, how much."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float

from interp.errors import EditError

Kind = Literal["add", "project_out"]
Phase = Literal["prompt", "response", "all"]


@dataclass(frozen=True, eq=False)
class Edit:
    """One intervention on the residual stream; make it with `add` or `project_out`.

    `add`: `x + vector`. `project_out`: `x - Q Qᵀ (x - centre)`, Q spanning the directions: what varies along them is held at
    the centre (mean ablation in a subspace).
    """

    kind: Kind
    hook_points: tuple[str, ...]
    vectors: Float[torch.Tensor, "hook_points n d_model"]
    """`add`: the vector added at each hook point (n = 1). `project_out`: the same orthonormal rows at each."""
    centres: Float[torch.Tensor, "hook_points d_model"]
    """`project_out`: the value around which is projected; zeros for `add`."""
    phase: Phase
    dose: float
    """`add`: norm of the vector over the median residual norm there. `project_out`: 1."""
    label: str

    @property
    def key(self) -> str:
        """Hash of everything the edit does."""
        digest = hashlib.sha256(f"{self.kind}|{self.hook_points}|{self.phase}|{self.dose!r}".encode())
        for tensor in (self.vectors, self.centres):
            digest.update(tensor.contiguous().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def as_json(self) -> dict[str, Any]:
        """For manifests: everything but the tensors, which the key identifies."""
        return {
            "kind": self.kind,
            "hook_points": list(self.hook_points),
            "phase": self.phase,
            "dose": self.dose,
            "n_directions": int(self.vectors.shape[1]),
            "label": self.label,
            "key": self.key,
        }


def add(
    direction: Float[torch.Tensor, " d_model"], median_norms: Mapping[str, float], dose: float, phase: Phase = "response", label: str = ""
) -> Edit:
    """Add `direction` at every hook point of `median_norms`, with norm `dose` × the median residual norm there.

    Raises `EditError` for a zero direction, dose or median norm, or a bad phase: it would change nothing.
    """
    _check(direction[None], list(median_norms), phase)
    if not 0 < dose < math.inf:
        raise EditError(f"A dose of {dose} cannot be added. Give a positive dose; flip the direction to subtract it.")
    for name, norm in median_norms.items():
        if not 0 < norm < math.inf:
            raise EditError(f"The median norm at {name} is {norm}, so a dose means nothing there. Measure it on chats with a response.")
    unit = direction.float() / direction.float().norm()
    vectors = torch.stack([unit * (dose * norm) for norm in median_norms.values()])[:, None]
    return Edit("add", tuple(median_norms), vectors, torch.zeros(len(median_norms), len(direction)), phase, dose, label)


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


def random_directions(n: int, d_model: int, seed: int) -> Float[torch.Tensor, "n d_model"]:
    """Independent directions of norm one, uniform on the sphere: the control for any found direction."""
    drawn = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def _check(directions: torch.Tensor, hook_points: Sequence[str], phase: str) -> None:
    if not hook_points:
        raise EditError("An edit without a hook point changes nothing. Name at least one.")
    if phase not in get_args(Phase):
        raise EditError(f"There is no phase '{phase}'. Use {', '.join(get_args(Phase))}.")
    if not bool(torch.isfinite(directions).all()):
        raise EditError("A direction holds values that are not finite.")
    if directions.numel() == 0 or bool((directions.norm(dim=-1) == 0).any()):
        raise EditError("A direction is zero, so the edit would change nothing. Give a direction with a norm.")
