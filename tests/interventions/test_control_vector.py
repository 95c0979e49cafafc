"""Control vectors, read back by the gguf library and applied as llama.cpp does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file

from interp.core.errors import ArtifactError, EditError, EditWarning, HookPointError
from interp.core.vocabulary import Phase
from interp.interventions.control_vector import block_directions, model_hint, write_control_vector
from interp.interventions.edits import Edit, add, project_out
from interp.interventions.hooks import edited
from interp.models.hook_points import attach, resid_post
from tests.helpers.tiny import D_MODEL, N_LAYERS, ask_all, tiny_model


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adding(*names: str, phase: Phase = "all", seed: int = 0) -> Edit:
    norms = {name: 2.0 + place for place, name in enumerate(names)}
    return add(randn(D_MODEL, seed=seed), norms, dose=1.5, phase=phase, label="warmer")


def as_llama_cpp_loads(path: Path) -> torch.Tensor:
    """`[block, width]`: rows of `common_control_vector_load_one`'s buffer, given to blocks by `llama_adapter_cvec::apply`."""
    buffer: dict[int, torch.Tensor] = {}
    for tensor in GGUFReader(path).tensors:
        kind, number = tensor.name.split(".")
        assert kind == "direction"
        assert int(number) > 0
        assert tensor.tensor_type == GGMLQuantizationType.F32
        assert len(tensor.shape) == 1
        buffer[int(number) - 1] = torch.tensor(tensor.data)
    blocks = torch.zeros(N_LAYERS, D_MODEL)
    for block in range(1, N_LAYERS):
        if block - 1 in buffer:
            blocks[block] = buffer[block - 1]
    return blocks


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_blocks_with_the_files_vectors_added_are_the_edited_model(family: str, tmp_path: Path) -> None:
    model = tiny_model(1, family)
    edits = [adding(resid_post(1), resid_post(2)), adding("blocks.2.hook_resid_pre", seed=5)]
    path = tmp_path / "new" / "warmer.gguf"
    files = write_control_vector(path, block_directions(model, edits), model_hint(model), "made by a test")
    assert files == [path, path.with_suffix(".safetensors")]
    assert sorted(file.name for file in path.parent.iterdir()) == ["warmer.gguf", "warmer.safetensors"]
    blocks = as_llama_cpp_loads(path)
    assert [bool(block.any()) for block in blocks] == [False, True, True]
    _rows, batch = next(model.batches(ask_all()))
    with edited(model, *edits):
        expected = model.read(batch, last_logits=0)[batch.mask]
    handles = [attach(model.blocks[layer], "hook_resid_post", lambda r, layer=layer: r + blocks[layer]) for layer in range(N_LAYERS)]  # type: ignore[misc]
    found = model.read(batch, last_logits=0)[batch.mask]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, model.read(batch, last_logits=0)[batch.mask], atol=0.1)


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    model = tiny_model()
    directions = block_directions(model, adding(resid_post(1), resid_post(2)))
    path = tmp_path / "v.gguf"
    write_control_vector(path, directions, model_hint(model), "warmer, dose 1.5")
    fields = GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == "llama"
    assert fields["controlvector.layer_count"].contents() == 2
    assert fields["general.description"].contents() == "warmer, dose 1.5"
    tensors = load_file(tmp_path / "v.safetensors")
    assert {name: float(tensor.norm()) for name, tensor in tensors.items()} == {
        "direction.1": pytest.approx(1.5 * 2.0),
        "direction.2": pytest.approx(1.5 * 3.0),
    }
    assert all(torch.equal(tensors[f"direction.{block}"], direction) for block, direction in directions.items())
    with safe_open(tmp_path / "v.safetensors", "pt") as stored:
        assert stored.metadata() == {"model_hint": "llama", "description": "warmer, dose 1.5"}


@pytest.mark.parametrize(
    ("family", "hint"), [("llama", "llama"), ("gpt2", "gpt2"), ("gpt_neox", "gptneox"), ("qwen3", "qwen3"), ("gemma3", "gemma3")]
)
def test_the_hint_is_llama_cpps_name(family: str, hint: str) -> None:
    assert model_hint(tiny_model(family=family)) == hint


def test_the_response_phase_warns_and_the_whole_does_not() -> None:
    model = tiny_model()
    with pytest.warns(EditWarning, match="adds 'warmer' at the prompt's tokens too"):
        late = block_directions(model, adding(resid_post(1), phase="response"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = block_directions(model, adding(resid_post(1)))
    assert torch.equal(late[1], whole[1])


@pytest.mark.parametrize("name", ["blocks.0.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"])
def test_places_below_block_1_are_refused(name: str) -> None:
    with pytest.raises(EditError, match=f"cannot add at {name}, only after a block from 1 on"):
        block_directions(tiny_model(), adding(name))


def test_what_is_no_addition_behind_a_block_is_refused() -> None:
    model = tiny_model()
    for edit, message in (
        (adding("blocks.1.hook_resid_mid"), "cannot add at blocks.1.hook_resid_mid, only after a block"),
        (adding(resid_post(1), phase="prompt"), "'warmer' acts on the prompt alone"),
        (project_out(randn(1, D_MODEL), {resid_post(1): torch.zeros(D_MODEL)}), "'project_out' is no addition .* export_model"),
        (add(randn(8), {resid_post(1): 1.0}, 1.0, "all", "narrow"), "'narrow' has width 8, tiny-llama has 32"),
    ):
        with pytest.raises(EditError, match=message):
            block_directions(model, edit)
    with pytest.raises(HookPointError):
        block_directions(model, adding(resid_post(N_LAYERS)))


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({}, "without a direction adds nothing"),
        ({0: torch.ones(4)}, "llama.cpp cannot add after block 0"),
        ({1: torch.ones(4), 2: torch.ones(5)}, "shapes .* make no control vector"),
        ({1: torch.ones(1, 4)}, "shapes .* make no control vector"),
        ({1: torch.zeros(4)}, "block 1 is zero or not finite"),
        ({1: torch.tensor([1.0, float("nan")])}, "block 1 is zero or not finite"),
    ],
)
def test_directions_that_llama_cpp_would_not_read_are_refused(directions: dict[int, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=message):
        write_control_vector(tmp_path / "v.gguf", directions, "llama")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["v.gguf", "v.safetensors"])
def test_a_taken_name_is_refused(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(ArtifactError, match=f"{taken} is there already"):
        write_control_vector(tmp_path / "v.gguf", {1: torch.ones(4)}, "llama")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "mine")]
    with pytest.raises(ArtifactError, match=r"does not end in \.gguf"):
        write_control_vector(tmp_path / "v.safetensors", {1: torch.ones(4)}, "llama")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["safetensors.torch.save_file", "os.replace"])
def test_a_failure_on_the_way_leaves_neither_file(step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise error

    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ArtifactError
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(expected, match=r"^$" if expected is KeyboardInterrupt else "Cannot write .*No space left on device"):
            write_control_vector(tmp_path / "v.gguf", {1: torch.ones(4)}, "llama")
    assert list(tmp_path.iterdir()) == []
    assert len(write_control_vector(tmp_path / "v.gguf", {1: torch.ones(4)}, "llama")) == 2
