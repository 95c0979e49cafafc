"""Benign fine-tunes as a control: how they differ from the base, and that the claim is tried against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.core.steps import RunDirectory
from interp.core.streams import stream_seed
from interp.evaluation.sampling import sample_answers
from interp.models.activations import mean_residuals
from interp.studies.persona.answers import Answers, as_chats
from interp.studies.persona.benign import BenignDifferences
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.evidence import make_claim
from interp.studies.persona.study import Study
from tests.helpers.small_run import SMALL, use_letter_judge
from tests.helpers.tiny import tiny_folder

BEFORE_EVIDENCE = ("texts", "residuals", "dictionary", "answers", "directions", "diff", "benign")


def study_of(folder: Path, benign: list[Path]) -> Study:
    names = {"base": str(folder / "base"), "tuned": str(folder / "tuned"), "benign": [str(path) for path in benign]}
    return Study(validated(StudyConfig, SMALL | names, "test"), RunDirectory(folder / "run"), quiet=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "tuned", "kind", "plain")):
        tiny_folder(tmp_path / name, seed=seed)
    use_letter_judge(monkeypatch)
    return tmp_path


def test_they_are_mean_differences_and_stand_beside_the_claim_as_long_as_it(folder: Path) -> None:
    study = study_of(folder, [folder / "kind", folder / "plain"])
    for name in BEFORE_EVIDENCE:
        study.make(name)
    context, hook_point = study.context, study.context.hook_point
    differences = study.results["benign"].load(BenignDifferences)
    assert differences.differences[hook_point].shape == (2, 32)
    own = context.open_model(str(folder / "kind"))
    targets = differences.targets(hook_point, context.window)
    assert set(targets[0].by_layer) == set(context.window)
    of_base = mean_residuals(context.base, study.results["answers"].load(Answers).chats("base"), [hook_point])[hook_point]
    assert not torch.allclose(targets[0].rise, targets[1].rise)
    moved = differences.differences[hook_point] + of_base
    answers = sample_answers(
        own, context.questions.split("selection", SMALL["diff"]["questions"]), 1, context.study.sampling, stream_seed(0, "answers")
    )
    torch.testing.assert_close(moved[0], mean_residuals(own, as_chats(answers), [hook_point])[hook_point])
    choice = {
        "persona_latents": [1, 2],
        "steering_latents": [1],
        "steering_dose": 0.5,
        "removal": {"kind": "subtract", "strength": 1.0},
        "mean_difference_removal": None,
    }
    _, claim, _ = make_claim(context, choice, context.config.verdict)
    assert claim.of_latents
    (control,) = [one for one in claim.controls if one.name == "benign_difference"]
    assert control.role == "control"
    assert [float(one.rise.norm()) for one in control.removed] == pytest.approx([float(claim.removed.rise.norm())] * 2)
    assert torch.nn.functional.cosine_similarity(control.removed[0].rise, targets[0].rise, dim=0) > 0.999


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_a_model_of_the_study_is_no_benign_fine_tune(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"benign: .*{name} is the same model as"):
        study_of(folder, [folder / name]).context.check()
