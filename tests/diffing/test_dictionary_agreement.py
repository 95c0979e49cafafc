"""Latents chosen in two dictionaries: planted agreement is found, none is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.diffing.dictionary_agreement import ChosenLatents, largest_cosines, latent_agreement


def dictionary(seed: int, n: int = 400, width: int = 64) -> tuple[torch.Tensor, np.ndarray]:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), np.random.default_rng(seed).gamma(1.0, size=n)


def test_the_largest_cosine_is_that_of_the_whole_matrix() -> None:
    rows, others = dictionary(0)[0][:7], dictionary(1)[0]
    unit, other = rows / rows.norm(dim=1, keepdim=True), others / others.norm(dim=1, keepdim=True)
    assert torch.allclose(largest_cosines(rows, others), (unit @ other.T).max(1).values, atol=1e-6)


def test_planted_latents_are_found_in_the_other_dictionary() -> None:
    (first, active), (second, other_active) = dictionary(0), dictionary(1)
    second[[50, 51, 52]] = 3 * first[[10, 11, 12]]  # the same directions under other numbers
    chosen = ChosenLatents(first, [10, 11, 12], active), ChosenLatents(second, [50, 51, 52], other_active)
    found = latent_agreement(*chosen, seed=0)
    assert found is not None
    assert found.chosen_latent.value == pytest.approx(1.0, abs=1e-5)
    assert found.chosen_latent.p < 0.01
    elsewhere = latent_agreement(chosen[0], ChosenLatents(second, [90, 91, 92], other_active), seed=0)
    assert elsewhere is not None
    assert elsewhere.any_latent.value == pytest.approx((1 + elsewhere.any_latent.chance) / 2, abs=0.1)  # one way alone has them
    assert elsewhere.chosen_latent.p > 0.01


def test_unrelated_dictionaries_agree_as_chance_does() -> None:
    p = []
    for seed in range(40):
        (first, active), (second, other_active) = dictionary(seed), dictionary(1000 + seed)
        found = latent_agreement(ChosenLatents(first, range(5), active), ChosenLatents(second, range(5), other_active), seed)
        assert found is not None
        p.append(found.any_latent.p)
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert 0.3 < np.mean(p) < 0.7


def test_stand_ins_are_active_latents_of_like_activity_and_no_chosen_ones() -> None:
    rows = torch.eye(6)
    dead = ChosenLatents(rows, [0], np.array([1.0, 0, 0, 0, 0, 0]))
    assert latent_agreement(dead, dead, 0) is None  # no other latent is active
    assert latent_agreement(dead, ChosenLatents(rows, [], np.ones(6)), 0) is None
    two = ChosenLatents(rows, [0], np.array([1.0, 1, 0, 0, 0, 0]))
    found = latent_agreement(two, ChosenLatents(rows[[0, 2, 3, 4, 5]], [0], np.ones(5)), 0)
    assert found is not None
    assert found.any_latent.chance == pytest.approx((0 + 4 / 4 * 1) / 2, abs=0.2)
