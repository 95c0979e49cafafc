"""What a study announces before it begins: the steps still to do, and a time that grows with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.core.steps import RunDirectory
from interp.models.sources import weight_counts
from interp.studies.persona import study
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.forecast import expected_seconds, tokens_of
from tests.helpers.tiny import D_MODEL, tiny_folder, tiny_network


def test_every_step_of_whole_length_is_counted() -> None:
    assert set(tokens_of(StudyConfig())) | {"judges"} == set(study.STEPS)


def test_more_answers_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.studies.persona.forecast._operations_a_second", lambda config, d_model: 1e9)
    small = StudyConfig.model_validate({"base": str(tiny_folder(tmp_path / "base"))})
    large = small.model_copy(update={"verdict": small.verdict.model_copy(update={"questions": 2 * small.verdict.questions})})
    assert expected_seconds(large, ["evidence"]) == pytest.approx(2 * expected_seconds(small, ["evidence"]))
    assert expected_seconds(small, ["evidence", "diff"]) > expected_seconds(small, ["evidence"]) > 0
    assert expected_seconds(small, []) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_weights_are_counted_without_opening_the_model(family: str, tmp_path: Path) -> None:
    network = tiny_network(family, vocab=1000)
    network.save_pretrained(tmp_path)
    in_blocks = sum(p.numel() for name, p in network.named_parameters() if ".layers." in name or ".h." in name)
    assert weight_counts(str(tmp_path)) == (in_blocks, 1000 * D_MODEL)


def test_a_large_vocabulary_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.studies.persona.forecast._operations_a_second", lambda config, d_model: 1e9)
    seconds = {}
    for vocab in (400, 4000):
        folder = tiny_folder(tmp_path / str(vocab), vocab=vocab)
        seconds[vocab] = {step: expected_seconds(StudyConfig(base=str(folder)), [step]) for step in ("answers", "residuals")}
    config = StudyConfig()
    drawn = 2 * config.diff.questions * config.diff.samples * config.sampling.max_new_tokens
    assert seconds[4000]["answers"] - seconds[400]["answers"] == pytest.approx(2 * drawn * 3600 * D_MODEL / 0.7 / 1e9)
    assert seconds[4000]["residuals"] == seconds[400]["residuals"]


def test_the_outlook_names_the_steps_that_are_left(tmp_path: Path) -> None:
    base, tuned = (tiny_folder(tmp_path / name, seed) for seed, name in enumerate(("base", "tuned")))
    config = StudyConfig.model_validate({"base": str(base), "tuned": str(tuned)})
    planned = study.Study(config, RunDirectory(tmp_path / "run"), quiet=True)
    names = list(planned.steps)
    assert study._outlook(planned, names).endswith(": " + ", ".join(names))
    first = planned.origin(names[0])
    planned.run.step(*first, lambda folder: (folder / "done.txt").write_text("done"))
    assert study._outlook(planned, names[:2]).startswith(f"1 of 2 steps to do, about 1 min on this machine: {names[1]}")
    assert study._outlook(planned, names[:1]) == "all 1 steps are finished"
