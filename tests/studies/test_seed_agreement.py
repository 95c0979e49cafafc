"""Agreement of two seeds' latents and directions: what is the same, what differs, and where nothing can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.diffing.dictionary_agreement import ChosenLatents
from interp.studies.persona.seed_agreement import SeedLatents, agreement_of_pair


def seed_latents(seed: int, chosen: list[int], content: str = "one") -> SeedLatents:
    generator = torch.Generator().manual_seed(0 if content == "one" else seed)
    rows, own = torch.randn(100, 32, generator=generator), torch.Generator().manual_seed(seed)
    directions = {"mean difference": torch.ones(32) + 0.1 * torch.randn(32, generator=own), "persona vector of the pairs": torch.ones(32)}
    latents = ChosenLatents(rows, chosen, np.ones(100))
    return SeedLatents(seed, "blocks.1.hook_resid_post", latents, content, directions, torch.randn(9, 32, generator=own))


def test_two_seeds_of_one_dictionary() -> None:
    pair = agreement_of_pair(seed_latents(3, [1, 2, 3, 4]), seed_latents(4, [3, 4, 5]))
    assert (pair["seeds"], pair["comparable"], pair["shared"]) == ([3, 4], True, 2)
    assert pair["shared_by_chance"] == pytest.approx(4 * 3 / 100)
    assert pair["any_latent"] is None  # a latent is found in its own dictionary
    assert pair["chosen_latent"]["value"] < 1.0
    assert set(pair["cosines"]) == {"mean difference"}  # no seed changes the other one
    assert pair["cosines"]["mean difference"] > 0.95
    assert 0.2 < pair["chance_cosine"] < 0.5  # of random directions in 32 dimensions: 1.96 / √32 = 0.35


def test_two_seeds_of_different_dictionaries() -> None:
    pair = agreement_of_pair(seed_latents(3, [1, 2]), seed_latents(4, [3], content="other"))
    assert pair["shared"] is None
    assert pair["any_latent"]["p"] > 0.01


def test_seeds_without_latents_or_at_different_layers_are_not_compared() -> None:
    one, none = seed_latents(3, [1]), seed_latents(4, [])
    assert agreement_of_pair(one, none)["any_latent"] is None
    elsewhere = agreement_of_pair(one, replace(none, hook_point="blocks.2.hook_resid_post"))
    assert elsewhere["comparable"] is False
    assert elsewhere["cosines"] is None
