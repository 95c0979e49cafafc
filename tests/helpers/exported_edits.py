"""Edits to fold into the weights of tiny models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.interventions.edits import Edit, add, project_out
from tests.helpers.tiny import D_MODEL, ask_all

PRE, MID, POST = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"
PROBES = ask_all()
WITHOUT_BIASES = ("mistral", "qwen2, tied", "qwen3")


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def centred(names: Sequence[str], alike: bool = False, rank: int = 3, seed: int = 0) -> Edit:
    """A projection at `names`, around another centre at each, or around one."""
    centres = {name: randn(D_MODEL, seed=seed + 1 + (0 if alike else place)) for place, name in enumerate(names)}
    return project_out(randn(rank, D_MODEL, seed=seed), centres, label="test")


def adding(*names: str, seed: int = 7) -> Edit:
    return add(randn(D_MODEL, seed=seed), dict.fromkeys(names, 3.0), dose=1.0, phase="all", label="added")
