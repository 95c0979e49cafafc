"""The main job on a toy whose truth is known: the planted persona is found and proved, a benign fine-tune and a bystander are not blamed.

`benchmarks/planted.py` does this for twenty seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_persona as toy

from interp.causality.verdict import CAUSES, CORRELATES, NO_EVIDENCE

SEED = 0


@pytest.fixture(scope="module")
def base() -> Any:
    return toy.base_network(SEED)


def case_of(base: Any, manner: toy.Manner, folder: Path) -> toy.Case:
    network, added = toy.tuned_network(base, manner, SEED)
    return toy.investigate(base, network, added, SEED, folder)


@pytest.mark.slow
def test_the_planted_persona_ranks_first_and_is_the_cause_and_a_bystander_is_not(base: Any, tmp_path: Path) -> None:
    case = case_of(base, toy.PLANTED, tmp_path)
    assert case.cosines[case.planted] > 0.8
    assert case.latents.loc[case.planted, "rank_rise"] == 1
    proof = case.judged()
    assert proof.accused == [case.planted]
    assert all(proof.checks.values()), proof.checks
    assert proof.word == CAUSES
    bystander = case.judged_instead()
    assert bystander is not None
    assert bystander.accused != [case.planted]
    assert bystander.word == CORRELATES
    assert bystander.rates["ablated"] > 0.5


@pytest.mark.slow
def test_a_benign_fine_tune_is_not_blamed(base: Any, tmp_path: Path) -> None:
    kind = next(iter(toy.BENIGN))
    case = case_of(base, toy.BENIGN[kind], tmp_path)
    risen = case.latents[(case.latents["q_value"] <= 0.01) & (case.latents["rise"] > 0)]
    assert len(risen)  # it is another model, and latents say so
    assert case.judged().word == NO_EVIDENCE
