"""A persona planted in one part of the weights is found there, among larger changes that do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from interp.studies.knockout import knockout
from interp.studies.knockout_config import KnockoutConfig
from interp.studies.opened import StudyFolder
from interp.studies.persona.config import StudyConfig
from tests.helpers.toy_language import PLANTED, Truth, question_set
from tests.helpers.toy_persona import LAYER, SAMPLING, base_network, save, tuned_network

pytestmark = pytest.mark.slow


def with_bystanders(network: Any) -> Any:
    """The fine-tune with a change of every attention output and MLP input that is spread over all directions."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.model.layers:
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.up_proj.weight):
            weight.data += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
    return network


def test_the_part_that_was_planted_is_found(tmp_path: Path) -> None:
    base = base_network(0)
    tuned, _ = tuned_network(base, PLANTED, 0)
    (tmp_path / "questions.yaml").write_text(yaml.safe_dump(question_set().model_dump()))
    pair = {"base": save(base, tmp_path / "base"), "tuned": save(with_bystanders(tuned), tmp_path / "tuned")}
    config = StudyConfig(**pair, questions=str(tmp_path / "questions.yaml"), device="cpu", sampling=SAMPLING)
    folder = StudyFolder(tmp_path / "out", config, quiet=True)
    folder.context.opened.update(panel=Truth(), **{"key of panel": "truth"})
    cells = knockout(folder, KnockoutConfig(questions=24)).cells
    sure = cells[cells["surely"] & cells["coherent_enough"] & ~cells["whole"]]
    planted = f"MLP, layer {LAYER}"
    assert {*zip(sure["cell"], sure["part"], strict=True)} == {("alone", planted), ("left out", planted)}, cells.to_string()
    assert len(cells[(cells["cell"] == "alone") & ~cells["whole"]]) == 6
