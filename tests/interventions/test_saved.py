"""Saved edits come back as they were, with their dictionary once; what was damaged or altered is refused. Keys cover all an edit does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core.errors import EditError
from interp.interventions.edits import Edit, clamp_latents
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit, save_edit
from interp.models.hook_points import resid_post
from tests.helpers.edits_by_hand import ARCHITECTURES, WINDOW, adding, projecting, small_dictionary
from tests.helpers.tiny import ask_all, greedy, tiny_model, written_ids


@pytest.mark.parametrize("edit", [adding("prompt"), projecting("response")])
def test_an_edit_survives_the_disk(tmp_path: Path, edit: Edit) -> None:
    save_edit(edit, tmp_path, "one")
    back = load_edit(tmp_path, "one")
    assert back.as_json() == edit.as_json()
    assert torch.equal(back.vectors, edit.vectors)
    assert torch.equal(back.centres, edit.centres)
    assert json.loads((tmp_path / "one.json").read_text()) == edit.as_json()


def test_the_key_covers_all_that_an_edit_does() -> None:
    edit = adding()
    for other in (adding("all"), adding(seed=1), adding(dose=1.6), adding(names=WINDOW[:1]), replace(edit, centres=edit.centres + 1)):
        assert other.key != edit.key
    assert replace(edit, label="another name").key == edit.key == adding().key


def test_a_damaged_or_altered_edit_is_refused(tmp_path: Path) -> None:
    save_edit(adding(), tmp_path, "one")
    tensors_file, json_file = tmp_path / "one.safetensors", tmp_path / "one.json"
    tensors, record = load_file(tensors_file), json.loads(json_file.read_text())
    for change in ({"phase": "all"}, {"kind": "project_out"}, {"hook_points": WINDOW[::-1]}):
        json_file.write_text(json.dumps(record | change))
        with pytest.raises(EditError, match="was altered"):
            load_edit(tmp_path, "one")
    json_file.write_text(json.dumps({k: v for k, v in record.items() if k != "phase"}))
    with pytest.raises(EditError, match="is damaged"):
        load_edit(tmp_path, "one")
    json_file.write_text(json.dumps(record))
    save_file(tensors | {"vectors": tensors["vectors"] * 1.001}, tensors_file)
    with pytest.raises(EditError, match="was altered"):
        load_edit(tmp_path, "one")
    save_file({"vectors": tensors["vectors"]}, tensors_file)
    with pytest.raises(EditError, match="is damaged"):
        load_edit(tmp_path, "one")
    tensors_file.write_bytes(b"not tensors")
    with pytest.raises(EditError, match="is damaged"):
        load_edit(tmp_path, "one")
    with pytest.raises(EditError, match="no edit 'two'"):
        load_edit(tmp_path, "two")


def test_the_key_covers_latents_values_dictionary_and_condition() -> None:
    dictionary = small_dictionary("jumprelu")
    assert dictionary.threshold is not None
    clamped = clamp_latents(dictionary, [3, 4], [1.0, 2.0])
    conditional = clamped.only_where(dictionary, 5, 0.5)
    others = [
        clamp_latents(dictionary, [3, 5], [1.0, 2.0]),
        clamp_latents(dictionary, [3, 4], [1.0, 2.5]),
        clamp_latents(replace(dictionary, threshold=dictionary.threshold + 0.1), [3, 4], [1.0, 2.0]),
        clamp_latents(replace(dictionary, subtract_b_dec=False), [3, 4], [1.0, 2.0]),
        clamped.only_where(dictionary, 6, 0.5),
        clamped.only_where(dictionary, 5, 0.6),
        clamped.only_where(replace(dictionary, b_enc=dictionary.b_enc + 1), 5, 0.5),
    ]
    keys = [edit.key for edit in (clamped, conditional, *others)]
    assert len(set(keys)) == len(keys)
    same = small_dictionary("jumprelu")
    assert same.content == dictionary.content
    assert clamp_latents(same, [3, 4], [1.0, 2.0]).only_where(same, 5, 0.5).key == conditional.key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_edit_survives_the_disk_with_its_dictionary_saved_once(tmp_path: Path, architecture: str) -> None:
    dictionary = small_dictionary(architecture)
    edit = clamp_latents(dictionary, [3, 4], [1.0, 0.1], [resid_post(1), resid_post(2)], "response", "both").only_where(dictionary, 9, 0.25)
    save_edit(edit, tmp_path, "one")
    save_edit(clamp_latents(dictionary, [2]), tmp_path, "two")
    folders = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert folders == [f"dictionary-{dictionary.content[:12]}"]
    back = load_edit(tmp_path, "one")
    assert back.key == edit.key
    assert back.as_json() == edit.as_json() == json.loads((tmp_path / "one.json").read_text())
    model = tiny_model(1)
    chats = ask_all()
    with edited(model, edit):
        expected = written_ids(model, chats, greedy(4))
    with edited(model, back):
        assert written_ids(model, chats, greedy(4)) == expected


def test_a_saved_edit_with_another_dictionary_or_none_is_refused(tmp_path: Path) -> None:
    dictionary = small_dictionary("standard")
    save_edit(clamp_latents(dictionary, [3]), tmp_path, "one")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    record = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(record | {"latents": record["latents"] | {"values": [1.0]}}))
    with pytest.raises(EditError, match="was altered"):
        load_edit(tmp_path, "one")
    (tmp_path / "one.json").write_text(json.dumps(record))
    kept = folder.rename(tmp_path / "kept")
    with pytest.raises(EditError, match="is damaged"):
        load_edit(tmp_path, "one")
    other = clamp_latents(replace(dictionary, b_enc=dictionary.b_enc + 1), [3])
    save_edit(other, tmp_path, "two")
    next(path for path in tmp_path.iterdir() if path.name.startswith("dictionary-")).rename(folder)
    with pytest.raises(EditError, match="was altered"):
        load_edit(tmp_path, "one")
    assert kept.is_dir()
