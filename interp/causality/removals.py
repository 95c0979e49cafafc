"""Ways to take a persona out of a model: what is removed, how, and the edit that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from interp.core.vocabulary import RemovalKind
from interp.interventions.edits import Edit, project_out, shift

KINDS: dict[RemovalKind, str] = {
    "project_out": "rise projected out",
    "project_span": "each projected out",
    "subtract": "rise subtracted",
    "subtract_window": "rise subtracted at every layer",
}
"""In words; a rise is subtracted at the dictionary's layer, or at every layer of the window."""


@dataclass(frozen=True)
class Removal:
    """How something is taken out."""

    kind: RemovalKind
    strength: float = 1.0
    """Of a subtraction: how many times the measured rise is taken away, at each place."""

    def __str__(self) -> str:
        return f"{self.strength:g} × {KINDS[self.kind]}" if self.subtracts else KINDS[self.kind]

    @property
    def subtracts(self) -> bool:
        """Whether an amount is taken away, rather than what varies along a direction held."""
        return self.kind in ("subtract", "subtract_window")


@dataclass(frozen=True)
class Target:
    """What is taken out: directions in the residual stream, and how far the tuned model has moved along them."""

    directions: Float[torch.Tensor, "n d_model"]
    """What `project_span` takes out; they need not be orthogonal."""
    rise: Float[torch.Tensor, " d_model"]
    """Mean residual of the tuned model minus that of the base, at the dictionary's hook point, as far as these directions hold it."""
    by_layer: Mapping[str, Float[torch.Tensor, " d_model"]] = field(default_factory=dict)
    """The rise at each place of the window, where it was measured there."""

    def scaled(self, norm: float) -> Target:
        """The same directions, with a rise of this norm."""
        factor = norm / float(self.rise.norm())
        return Target(self.directions, factor * self.rise, {name: factor * rise for name, rise in self.by_layer.items()})


@dataclass(frozen=True)
class Places:
    """Where things are taken out."""

    hook_point: str
    """Where the dictionary reads: the place of `subtract`."""
    centres: Mapping[str, Float[torch.Tensor, " d_model"]]
    """The window, and the base's mean residual at each place, around which is projected."""
    growth: Mapping[str, float]
    """Norm of the mean difference at each place of the window over that at `hook_point`: a rise that was measured at `hook_point` alone
    is taken to grow alike."""

    def remove(self, target: Target, removal: Removal, label: str) -> Edit:
        """The edit that takes `target` out; attention sinks are left alone.

        Raises `EditError` for directions that depend on one another, or a rise of zero.
        """
        if not removal.subtracts:
            directions = target.rise[None] if removal.kind == "project_out" else target.directions
            return project_out(directions, self.centres, "all", label)
        if removal.kind == "subtract":
            return shift({self.hook_point: target.rise}, -removal.strength, "all", label)
        rises = target.by_layer or {name: growth * target.rise for name, growth in self.growth.items()}
        return shift(rises, -removal.strength, "all", label)


def removals(subtracted: Sequence[float], over_window: Sequence[float]) -> list[Removal]:
    """Every way, with these strengths; the plainest first."""
    kinds: list[tuple[RemovalKind, Sequence[float]]] = [
        ("project_out", [1.0]),
        ("project_span", [1.0]),
        ("subtract", subtracted),
        ("subtract_window", over_window),
    ]
    return [Removal(kind, strength) for kind, strengths in kinds for strength in strengths]
