"""Plans: power against closed forms, its order, and wrong use."""

from __future__ import annotations

import itertools

import pytest
from scipy import stats

from interp.core.errors import ConfigError
from interp.stats.power import enough, plan


def test_power_equals_the_normal_formula_where_that_holds() -> None:
    """Many questions, rates in the middle: the difference of means is normal with a variance known in closed form."""
    first, second, questions, likeness = 0.4, 0.5, 200, 0.1
    for found in plan(first, second, questions, likeness, samples=(1, 4)):
        variance = sum(p * (1 - p) * (1 + (found.samples - 1) * likeness) / found.samples for p in (first, second)) / questions
        true = stats.norm.sf(1.96 - abs(second - first) / variance**0.5)
        assert found.power == pytest.approx(true, abs=0.03)
        assert found.answers == 2 * questions * found.samples


def test_power_is_the_level_where_hardly_anything_differs() -> None:
    (found,) = plan(0.3, 0.3001, 60, samples=(4,))
    assert 0.015 <= found.power <= 0.04  # half of 5 %: only differences in the right direction count


def test_more_samples_more_questions_and_less_likeness_help() -> None:
    powers = [found.power for found in plan(0.05, 0.2, 30)]
    assert all(later >= earlier - 0.03 for earlier, later in itertools.pairwise(powers))
    assert plan(0.05, 0.2, 60, samples=(2,))[0].power > plan(0.05, 0.2, 20, samples=(2,))[0].power + 0.1
    assert plan(0.05, 0.2, 30, 0.05, samples=(8,))[0].power > plan(0.05, 0.2, 30, 0.4, samples=(8,))[0].power
    assert plan(0.2, 0.05, 30, samples=(2,))[0].power == pytest.approx(plan(0.05, 0.2, 30, samples=(2,))[0].power, abs=0.05)


def test_enough_is_the_first_with_eighty_percent_or_none() -> None:
    powers = plan(0.05, 0.2, 30)
    found = enough(powers)
    assert found is not None
    assert found.power >= 0.8
    assert all(power.power < 0.8 for power in powers if power.samples < found.samples)
    assert enough(plan(0.1, 0.12, 8)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.2, 0.2, 30), "two different rates"),
        ((0.0, 0.2, 30), "two different rates"),
        ((0.1, 0.2, 1), "at least two questions"),
        ((0.1, 0.2, 30, 1.0), "between 0 and 1"),
    ],
)
def test_wrong_plans_are_a_sentence(given: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*given)  # type: ignore[arg-type]
