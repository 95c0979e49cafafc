"""How far latents chosen in one dictionary are found again in another one, against latents of the same activity drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

DRAWS = 1000
POOL = 20
"""Latents nearest in activity among which each latent's stand-in is drawn."""
CHUNK = 8192
"""Decoder rows that are compared at a time."""


@dataclass(frozen=True)
class ChosenLatents:
    """Latents that were chosen in a dictionary."""

    rows: Float[torch.Tensor, "latents d_model"]
    """Decoder rows of the whole dictionary, of any norm."""
    chosen: Sequence[int]
    activity: Float[np.ndarray, " latents"]
    """Mean activation of every latent, by which stand-ins are alike; those of 0 never stand in."""


@dataclass(frozen=True)
class AgainstChance:
    """A statistic beside what it is for latents drawn at random."""

    value: float
    chance: float
    """Its mean over draws."""
    chance_high: float
    """Its 95 % quantile over draws."""
    p: float
    """Share of draws that reach the value, the value itself counted among them (Phipson & Smyth 2010)."""


@dataclass(frozen=True)
class LatentAgreement:
    """Mean over the chosen latents of both dictionaries of the largest cosine of a latent's decoder row …"""

    any_latent: AgainstChance
    """… with any row of the other dictionary: does the other one have such latents at all?"""
    chosen_latent: AgainstChance
    """… with a chosen row of the other dictionary: were they chosen there, too?"""


def latent_agreement(first: ChosenLatents, second: ChosenLatents, seed: int) -> LatentAgreement | None:
    """The agreement of two dictionaries' chosen latents; None where one chose none, or no other latent is active.

    By chance: the chosen latents of one dictionary at a time replaced by others at random, each by one of the `POOL` next to it in
    activity, for the latents that are often active are alike in any two dictionaries.
    """
    generator = np.random.default_rng(seed)
    values, draws = [], []
    for own, other in ((first, second), (second, first)):
        pools = _stand_ins(own)
        if pools is None or not len(other.chosen):
            return None
        compared = torch.from_numpy(np.concatenate([np.asarray(own.chosen), pools.ravel()]))
        rows = own.rows[compared]
        best = np.stack([largest_cosines(rows, other.rows).numpy(), largest_cosines(rows, other.rows[list(other.chosen)]).numpy()])
        n = len(own.chosen)
        values.append(best[:, :n].mean(1))
        drawn = generator.integers(0, pools.shape[1], (DRAWS, n))
        draws.append(best[:, n:].reshape(2, *pools.shape)[:, np.arange(n), drawn].mean(2))
    value, drawn_values = np.mean(values, axis=0), np.mean(draws, axis=0)
    return LatentAgreement(*(_against(*both) for both in zip(value, drawn_values, strict=True)))


def largest_cosines(rows: Float[torch.Tensor, "n d_model"], others: Float[torch.Tensor, "m d_model"]) -> Float[torch.Tensor, " n"]:
    """The largest cosine of each row with any of the others."""
    unit = torch.nn.functional.normalize(rows.float(), dim=-1)
    blocks = [(unit @ torch.nn.functional.normalize(block.float(), dim=-1).T).amax(1) for block in others.split(CHUNK)]
    return torch.stack(blocks).amax(0)


def _stand_ins(latents: ChosenLatents) -> Int[np.ndarray, "chosen pool"] | None:
    """For each chosen latent the others that are next to it in the order of activity."""
    others = np.setdiff1d(np.flatnonzero(latents.activity > 0), np.asarray(latents.chosen, dtype=int))
    if not len(others) or not len(latents.chosen):
        return None
    ordered = others[np.argsort(latents.activity[others], kind="stable")]
    places = np.searchsorted(latents.activity[ordered], latents.activity[list(latents.chosen)])
    width = min(POOL, len(ordered))
    starts = np.clip(places - width // 2, 0, len(ordered) - width)
    stand_ins: Int[np.ndarray, "chosen pool"] = ordered[starts[:, None] + np.arange(width)]
    return stand_ins


def _against(value: float, drawn: Float[np.ndarray, " draws"]) -> AgainstChance:
    p = (1 + int((drawn >= value).sum())) / (1 + len(drawn))
    return AgainstChance(float(value), float(drawn.mean()), float(np.quantile(drawn, 0.95)), p)
