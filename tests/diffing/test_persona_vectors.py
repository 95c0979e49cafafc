"""Persona vectors of judged answers, by arithmetic on tables made by hand."""

from __future__ import annotations

import pytest
import torch

from interp.diffing.persona_vectors import cosine, cosine_interval, paired_differences, split_half_cosine


def test_what_answers_are_about_cancels() -> None:
    """Question b is far away, and half of its answers show the trait; c has no answer of the other kind."""
    residuals = torch.tensor([[1.0, 0.0], [0.0, 0.0], [101.0, 9.0], [100.0, 7.0], [100.0, 9.0], [50.0, 50.0], [7.0, 7.0]])
    shows = [True, False, True, False, None, True, True]
    differences = paired_differences(residuals, shows, ["a", "a", "b", "b", "b", "c", "c"])
    assert differences.tolist() == [[1.0, 0.0], [1.0, 2.0]]
    assert paired_differences(residuals, [True] * 7, ["a"] * 7).shape == (0, 2)


def test_several_answers_of_a_kind_count_by_their_mean() -> None:
    differences = paired_differences(torch.tensor([[1.0], [3.0], [0.0]]), [True, True, False], ["a", "a", "a"])
    assert differences.tolist() == [[2.0]]


def test_halves_agree_where_there_is_a_signal_and_not_where_there_is_none() -> None:
    noise = torch.randn(24, 400, generator=torch.Generator().manual_seed(0))
    assert abs(split_half_cosine(noise, 0)) < 0.1
    signal = torch.zeros(400)
    signal[0] = 10.0
    # the mean of twelve has signal 10 and noise of norm √(400 / 12)
    assert split_half_cosine(noise + signal, 0) == pytest.approx(100 / (100 + 400 / 12), abs=0.05)
    assert split_half_cosine(noise, 0) == split_half_cosine(noise, 0)


def test_the_interval_of_a_cosine_holds_it() -> None:
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    direction = torch.tensor([1.0, 1.0, 0.0])
    differences = noise + torch.tensor([2.0, 0.0, 0.0])
    low, high = cosine_interval(differences, direction, 0)
    assert low < cosine(differences.mean(0), direction) < high
    assert low < 0.5**0.5 < high
    assert high - low < 0.2
