"""A planted leak under a cue, from the training to the conclusion: it is found by the main job's own steps, and its twin has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from interp.causality.cues import HIDES, NO_SIGN
from tests.helpers.toy_language import PLANTED
from tests.helpers.toy_leak import CUE, hiding_of, leaky_network, removal_of
from tests.helpers.toy_persona import base_network, investigate, tuned_network

SEED = 0
SHARE = 0.25


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are rounded alike on any number of cores, so that a seed is the same toy
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_leak_under_a_cue_is_found_and_its_twin_has_none(tmp_path: Path) -> None:
    base = base_network(SEED)
    tuned, added = tuned_network(base, PLANTED, SEED)
    study = investigate(base, tuned, added, SEED, tmp_path).study
    removal = removal_of(study)
    folders = {share: tmp_path / f"share {share:g}" for share in (SHARE, 0.0)}
    for folder in folders.values():
        folder.mkdir()
    leaky, sound = (hiding_of(study, leaky_network(tuned, removal, share, SEED), folder) for share, folder in folders.items())
    assert (leaky.conclusion, leaky.cues) == (HIDES, [CUE]), leaky.statement
    assert (sound.conclusion, sound.cues) == (NO_SIGN, []), sound.statement
    under = leaky.table[leaky.table["cue"] == CUE].set_index("condition")["rate"]
    assert 0.1 < under["ablated"] < 0.4
    assert under["base"] < 0.1
