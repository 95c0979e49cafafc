"""Edits folded into weights: what is saved computes without hooks what the hooked model does, and is whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.core.errors import ArtifactError, HookPointError
from interp.core.files import file_sha256
from interp.interventions import export
from interp.interventions.edits import Edit, project_out
from interp.interventions.export import MANIFEST_FILE, TOLERANCE, everywhere, export_model
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit
from interp.models.hook_points import attach, resid_post
from interp.models.language_model import LanguageModel, position_ids
from interp.models.sources import open_model
from tests.helpers.exported_edits import MID, POST, PRE, PROBES, WITHOUT_BIASES, adding, centred, randn
from tests.helpers.tiny import D_MODEL, N_LAYERS, greedy, tiny_folder, tiny_model, written_ids
from tests.helpers.tiny_families import NETWORKS, made

FOLDED = [name for name in NETWORKS if not name.startswith("gemma")]


def hooked_logits(model: LanguageModel, *edits: Edit) -> torch.Tensor:
    _rows, batch = next(model.batches(PROBES))
    with edited(model, *edits):
        return model.read(batch, last_logits=0)[batch.mask].float()


def saved_logits(model: LanguageModel, folder: Path) -> torch.Tensor:
    """By Hugging Face alone."""
    _rows, batch = next(model.batches(PROBES))
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    with torch.inference_mode():
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": position_ids(batch.mask)}
        return network(**inputs).logits[batch.mask].float()


def check_equal(model: LanguageModel, folder: Path, *edits: Edit) -> None:
    """The saved model computes the hooked one's logits, which are not the plain one's."""
    hooked, saved = hooked_logits(model, *edits), saved_logits(model, folder)
    _rows, batch = next(model.batches(PROBES))
    scale = float(hooked.abs().max())
    assert float((saved - hooked).abs().max()) < 1e-5 * scale
    assert float((model.read(batch, last_logits=0)[batch.mask] - hooked).abs().max()) > 0.05 * scale


@pytest.mark.parametrize("last_layer", [None, 1])
@pytest.mark.parametrize("name", FOLDED)
def test_a_projection_everywhere_is_folded_into_every_family(name: str, last_layer: int | None, tmp_path: Path) -> None:
    model = made(name)
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    edit = centred(everywhere(model, last_layer), alike=name in WITHOUT_BIASES)
    manifest = export_model(model, edit, tmp_path / "out", PROBES)
    check_equal(model, tmp_path / "out", edit)
    assert 0 < manifest["check"]["largest_difference"] < 1e-5 * manifest["check"]["largest_logit"]
    assert manifest["check"]["largest_change_by_the_edit"] > 1000 * manifest["check"]["largest_difference"]
    assert not (tmp_path / "out.partial").exists()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.network.state_dict().items())
    assert model.network.config.to_dict() == made(name).network.config.to_dict()


@pytest.mark.parametrize("name", ["llama", "gpt2, tied", "gpt_neox, parallel"])
def test_the_saved_models_stream_holds_the_centre_everywhere(name: str, tmp_path: Path) -> None:
    model = made(name)
    names = everywhere(model, 1)
    edit = centred(names)
    export_model(model, edit, tmp_path / "out", PROBES)
    saved = open_model(str(tmp_path / "out"), device="cpu")
    seen: dict[str, torch.Tensor] = {}
    for place in [*names, resid_post(2)]:
        point = saved.hook_point(place)
        attach(saved.blocks[point.layer], point.site, lambda residual, place=place: seen.update({place: residual.clone()}))  # type: ignore[misc]
    _rows, batch = next(saved.batches(PROBES))
    saved.read(batch)
    for place, centre in zip(names, edit.centres, strict=True):
        along = (seen[place][batch.mask] - centre) @ edit.vectors[0].T
        assert float(along.abs().max()) < 1e-4, place
    assert float(((seen[resid_post(2)] - edit.centres[0]) @ edit.vectors[0].T).abs().max()) > 0.1


def test_the_saved_model_writes_what_the_hooked_one_writes_and_reads_chats_alike(tmp_path: Path) -> None:
    model = made("llama, tied")
    edit = centred(everywhere(model))
    export_model(model, edit, tmp_path / "out", PROBES)
    saved = open_model(str(tmp_path / "out"), device="cpu")
    with edited(model, edit):
        expected = written_ids(model, PROBES, greedy())
    assert written_ids(saved, PROBES, greedy()) == expected
    assert written_ids(model, PROBES, greedy()) != expected
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == model.tokenizer.chat_template
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["attention_bias"] is True
    assert config["mlp_bias"] is True


def test_biases_are_made_only_where_centres_differ(tmp_path: Path) -> None:
    model = made("llama")
    export_model(model, centred(everywhere(model), alike=True), tmp_path / "out", PROBES)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["attention_bias"], config["mlp_bias"]) == (False, False)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_a_model_in_half_precision_differs_by_its_rounding(dtype: torch.dtype, rounding: float, tmp_path: Path) -> None:
    model = made("llama", dtype)
    edit = centred(everywhere(model))
    manifest = export_model(model, edit, tmp_path / "out", PROBES)
    hooked, saved = hooked_logits(model, edit), saved_logits(model, tmp_path / "out")
    assert 0 < float((saved - hooked).norm() / hooked.norm()) < 6 * rounding
    assert manifest["dtype"] == str(dtype).removeprefix("torch.")
    assert manifest["check"]["tolerance"] == pytest.approx(TOLERANCE[dtype] * float(hooked.abs().max()))


# What else is exact


def test_additions_go_into_biases_and_into_the_embedding(tmp_path: Path) -> None:
    for name, places in {
        "llama": [POST, "blocks.1.hook_resid_mid"],
        "gpt2, tied": [PRE, MID, "blocks.2.hook_resid_pre"],
        "gpt_neox, parallel": [PRE, POST],
        "gpt_neox, sequential, no bias": [MID],
        "qwen2, tied": [PRE],
        "qwen3": [MID],
    }.items():
        model, edit = made(name), adding(*places)
        export_model(model, edit, tmp_path / name, PROBES)
        check_equal(model, tmp_path / name, edit)


def test_an_embedding_that_is_not_changed_stays_tied(tmp_path: Path) -> None:
    model = made("llama, tied")
    export_model(model, adding(POST), tmp_path / "out", PROBES)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    assert saved_logits(model, tmp_path / "out").shape[-1] == 400


def test_edits_compose_in_their_order(tmp_path: Path) -> None:
    model = made("llama")
    names, basis = everywhere(model), torch.linalg.qr(randn(D_MODEL, 5, seed=5)).Q.T
    projection = centred(names)
    perpendicular = [project_out(part, {name: randn(D_MODEL, seed=9) for name in names}) for part in (basis[:2], basis[2:])]
    shrinking = [project_out(basis[:1], {name: randn(D_MODEL, seed=9) for name in names}), project_out(basis[1:], {PRE: basis[4]})]
    for number, edits in enumerate(
        [
            [adding(POST), projection],  # of what is added the part along the directions goes
            [projection, adding(POST)],  # it stays, until the next place
            [projection, adding(resid_post(2))],
            perpendicular,
            shrinking,
            [centred(names, rank=1), centred(names)],  # the second spans the first, around other centres
            [centred([PRE], seed=0), centred([PRE], seed=50)],  # neither perpendicular nor alike, but at the embedding alone
            [adding("blocks.1.hook_resid_pre"), centred(names[:3])],  # behind the projection at the same place of the stream
        ]
    ):
        folder = tmp_path / str(number)
        manifest = export_model(model, edits, folder, PROBES)
        check_equal(model, folder, *edits)
        assert [record["key"] for record in manifest["edits"]] == [edit.key for edit in edits]
    assert not torch.allclose(saved_logits(model, tmp_path / "0"), saved_logits(model, tmp_path / "1"), atol=0.01)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 6), rank=st.integers(1, 4), shifts=st.sets(st.integers(0, 6)))
def test_folded_writes_sum_to_the_edited_stream(seed: int, cut: int, rank: int, shifts: set[int]) -> None:
    """The arithmetic alone: random writes to a stream, edited behind each, against folded writes that are only summed."""
    model = tiny_model()
    names = everywhere(model)
    edits = [centred(names[: cut + 1], rank=rank, seed=seed)]
    if shifts:
        edits.append(adding(*(names[place] for place in sorted(shifts)), seed=seed))
    maps = export._maps(model, edits)
    stream = summed = torch.zeros(4, D_MODEL).double()
    before = export._Affine.identity(D_MODEL)
    for place, name in enumerate(names):
        write, here = randn(4, D_MODEL, seed=seed + place).double(), maps[name]
        stream = stream + write
        for edit in edits:
            if name in edit.hook_points:
                vectors, centre = (part[edit.hook_points.index(name)].double() for part in (edit.vectors, edit.centres))
                stream = stream + vectors if edit.kind == "add" else stream - (stream - centre) @ vectors.T @ vectors
        folded = here.rows(write) + (here.shift if place == 0 else here.constant(before))
        summed, before = summed + folded, here
        torch.testing.assert_close(summed, stream, atol=1e-4, rtol=0)


def test_everywhere_is_every_place_behind_a_write() -> None:
    llama, neox = tiny_model(), tiny_model(family="gpt_neox")
    assert everywhere(llama, 1) == [PRE, MID, POST, "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"]
    assert everywhere(neox) == [PRE, POST, resid_post(1), resid_post(2)]
    for layer in (-1, N_LAYERS):
        with pytest.raises(HookPointError, match="Layers run from 0 to 2"):
            everywhere(llama, layer)


# Files


def test_the_manifest_names_and_hashes_everything(tmp_path: Path) -> None:
    model = open_model(str(tiny_folder(tmp_path / "model")), device="cpu")
    edit = centred(everywhere(model))
    folder = tmp_path / "new" / "out"
    returned = export_model(model, edit, folder, PROBES, {"run": "runs/7"})
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert manifest == returned
    assert manifest["made"] == {"run": "runs/7"}
    assert manifest["source"] == model.source
    assert manifest["edits"] == [edit.as_json()]
    assert manifest["versions"]["transformers"]
    assert manifest["check"]["tokens"] == sum(len(tokenised.ids) for tokenised in model.tokenise(PROBES))
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST_FILE}
    assert set(manifest["files"]) == found
    assert {"model.safetensors", "config.json", "tokenizer.json", "edits/edit-0.safetensors"} <= found
    assert manifest["files"]["config.json"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert manifest["files"]["model.safetensors"] == file_sha256(folder / "model.safetensors")
    assert load_edit(folder / "edits", "edit-0").key == edit.key


def test_a_taken_folder_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    model = made("llama")
    edit = centred(everywhere(model))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in ("full", "full/mine.txt"):
        with pytest.raises(ArtifactError, match=r"is not an empty folder\. Choose another"):
            export_model(model, edit, tmp_path / taken, PROBES)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    export_model(model, edit, tmp_path / "empty", PROBES)
    assert (tmp_path / "empty" / MANIFEST_FILE).is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", [*(f"{export.__name__}.{name}" for name in ("save_edit", "open_network", "write_json")), "os.replace"])
def test_a_failure_on_the_way_leaves_nothing(step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    model = made("llama")
    edit = centred(everywhere(model, 0))
    (tmp_path / "out.partial").mkdir()  # of a killed export
    (tmp_path / "out.partial" / "left").write_text("over")
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ArtifactError
        with pytest.raises(expected, match=r"^$" if expected is KeyboardInterrupt else "Cannot write .*No space left on device"):
            export_model(model, edit, tmp_path / "out", PROBES)
    assert list(tmp_path.iterdir()) == []
    export_model(model, edit, tmp_path / "out", PROBES)
    assert "left" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_what_is_not_changed_is_not_copied() -> None:
    model = made("llama, tied")
    fresh = export._folded(model, [centred(everywhere(model))]).state_dict()
    live = model.network.state_dict()
    shared = {key for key, tensor in fresh.items() if key in live and tensor.data_ptr() == live[key].data_ptr()}
    changed = {key.rsplit(".", 2)[-2] for key in set(live) - shared}
    assert changed == {"embed_tokens", "o_proj", "down_proj"}
    assert "lm_head.weight" in shared
