"""Exports of a run's edits: what is written says what the edited model says, and what is not exact names what is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from interp.core.errors import ArtifactError, EditError
from interp.core.files import read_json, write_json
from interp.interventions.hooks import edited
from interp.interventions.saved import save_edit
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.sources import open_model
from interp.run import Run
from tests.helpers.small_run import QUESTION

pytestmark = pytest.mark.usefixtures("letter_judge")


def test_an_export_says_what_the_edited_model_says(run: Run, tmp_path: Path) -> None:
    found = run.export(latents=[4], everywhere=True, to=tmp_path / "cured")
    assert found.check is not None
    edit = run.removing([4], centres=run.centres_everywhere(None, False)).at_sinks("edit")
    assert found.edit["key"] == edit.key
    chats = [Chat.ask(QUESTION), Chat.ask("Why?")]
    with edited(run.context.tuned, edit):
        expected = generate(run.context.tuned, chats, run.config.sampling, 0)
    assert generate(open_model(str(tmp_path / "cured")), chats, run.config.sampling, 0) == expected
    assert expected != generate(run.context.tuned, chats, run.config.sampling, 0)
    assert run.export(latents=[4], everywhere=True, to=tmp_path / "cured").as_json() == found.as_json()  # found, not refused
    with pytest.raises(ArtifactError, match="not an empty folder"):
        run.export(latents=[5], everywhere=True, to=tmp_path / "cured")
    (tmp_path / "cured" / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model.safetensors is missing or altered"):
        run.export(latents=[4], everywhere=True, to=tmp_path / "cured")
    measured = run.ablate(latents=[4], everywhere=True, sinks="edit", prompts=[QUESTION])
    assert measured.edit["key"] == edit.key
    one = run.export(latents=[4], everywhere=True, one_centre=True, last_layer=1, to=tmp_path / "one")
    assert one.edit["hook_points"][-1] == "blocks.1.hook_resid_post"


def test_what_is_not_exact_names_what_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"not exact in weights: .* Take latents with everywhere"):
        run.export(latents=[4], to=tmp_path / "window")
    assert not list(tmp_path.iterdir())


def test_a_control_vector_holds_the_latent(run: Run, tmp_path: Path) -> None:
    found = run.export(steer_latent=4, dose=0.7, gguf=tmp_path / "v.gguf")
    assert [path.name for path in found.control_vector] == ["v.gguf", "v.safetensors"]
    (tensor,) = GGUFReader(tmp_path / "v.gguf").tensors
    row = run.context.dictionary.w_dec[4]
    assert tensor.name == "direction.1"
    assert torch.allclose(torch.tensor(tensor.data), row / row.norm() * 0.7 * run.directions.unit, rtol=1e-5, atol=1e-7)


def test_the_verdicts_edits_are_found_where_there_is_a_verdict(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no verdict yet\. Name --latents, or run 'personascope verdict"):
        run.verdict_edit("ablated")
    step = run.run.step("evidence", {"of": "a test"}, {}, lambda folder: save_edit(run.removing([4]), folder, "ablated"))
    manifest = read_json(folder / "manifest.json")
    record = step.record() | {"folder": step.folder.name}
    write_json(folder / "manifest.json", manifest | {"steps": manifest["steps"] | {"evidence": record}})
    try:
        further = Run(folder, quiet=True)
        assert further.verdict_edit("ablated").key == run.removing([4]).key
        with pytest.raises(ArtifactError, match="has no edit 'steered'"):
            further.verdict_edit("steered")
    finally:
        write_json(folder / "manifest.json", manifest)
