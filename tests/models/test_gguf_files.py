"""GGUF files open as the models that they hold, or are refused in words; nothing wrong stays in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from interp.core.errors import ModelError
from interp.models.chats import Chat
from interp.models.embedded import EMBEDDED_MODELS
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from tests.helpers.tiny import CHATS, logits, tiny_model, tiny_network
from tests.helpers.tiny_families import GROUPED
from tests.helpers.tiny_gguf import tiny_gguf

LONG = torch.arange(200)[None] % 390 + 5
"""Longer than the original context of the scaled models."""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERSONASCOPE_CACHE", str(tmp_path / "cache"))


def opened(source: Path) -> LanguageModel:
    return open_model(str(source), device="cpu")


def converted(tmp_path: Path) -> list[Path]:
    """Folders in the cache."""
    folder = tmp_path / "cache" / "gguf"
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def without(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.pop(name)


def random_network(kind: Any, config: Any) -> Any:
    torch.manual_seed(5)
    return kind(config).eval()


def test_a_gguf_is_converted_once_and_reads_as_the_model_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    path = tiny_gguf(tmp_path / "folder" / "tiny.gguf", seed=3)
    model = opened(path)
    torch.testing.assert_close(logits(model.network), logits(tiny_network("llama", 3)), atol=1e-4, rtol=1e-4)
    assert [t.ids for t in model.tokenise(CHATS)] == [t.ids for t in tiny_model().tokenise(CHATS)]
    (folder,) = converted(tmp_path)
    assert (folder / "model.safetensors").is_file()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr("interp.models.gguf_files.saving", refuse)
    assert torch.equal(logits(opened(tmp_path / "folder").network), logits(model.network))  # the folder, from the cache
    other = tiny_gguf(tmp_path / "other.gguf", seed=4)
    with pytest.raises(AssertionError, match="converted again"):
        opened(other)
    assert converted(tmp_path) == [folder]  # nothing half-made


def test_a_damaged_gguf_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"transformers cannot read .*tiny.gguf"):
        opened(path)
    assert not converted(tmp_path)


@pytest.mark.parametrize("beside", [True, False])
def test_a_part_of_a_split_gguf_is_refused(beside: bool, tmp_path: Path) -> None:
    first = tiny_gguf(tmp_path / "m-00001-of-00002.gguf", split__count=2, split__no=0)
    if beside:
        tiny_gguf(tmp_path / "m-00002-of-00002.gguf", split__count=2, split__no=1)
    message = r"part 1 of 2 of a model\. Join" if beside else r"part 1 of 2 of a model \(m-00002-of-00002.gguf missing beside it\)\. Join"
    for source in (first, tmp_path):
        with pytest.raises(ModelError, match=message):
            opened(source)
    assert not converted(tmp_path)


@pytest.mark.parametrize("name", ["blk.2.ffn_down.weight", "blk.0.attn_norm.weight", "token_embd.weight"])
def test_a_tensor_missing_in_a_gguf_is_refused(name: str, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", change=without(name))
    with pytest.raises(ModelError, match=r"lacks 1 weights \(model\..*\)"):
        opened(path)
    assert not converted(tmp_path)


def test_a_tensor_that_the_reader_has_no_place_for_is_refused(tmp_path: Path) -> None:
    biased = random_network(LlamaForCausalLM, LlamaConfig(**GROUPED, attention_bias=True))
    path = tiny_gguf(tmp_path / "biases.gguf", network=biased)
    with pytest.raises(ModelError, match=r"has no place for blk\.0\.attn_.*bias, …"):
        opened(path)
    assert not converted(tmp_path)


def moe_tensors(half: bool) -> Any:
    """Gate and up of the experts apart, as llama.cpp keeps them; by request without the gate."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if "experts" in name]:
            array, layer = tensors.pop(name), name.split(".")[1]
            if "up" in name:
                gate, up = np.split(array, 2, axis=1)
                tensors[f"blk.{layer}.ffn_up_exps.weight"] = np.ascontiguousarray(up)
                if not half:
                    tensors[f"blk.{layer}.ffn_gate_exps.weight"] = np.ascontiguousarray(gate)
            else:
                tensors[f"blk.{layer}.ffn_down_exps.weight"] = array
        for layer in range(3):
            tensors[f"blk.{layer}.ffn_gate_inp.weight"] = tensors.pop(f"blk.{layer}.ffn_gate.weight")

    return change


def test_half_of_the_experts_missing_is_refused_and_all_of_them_are_read(tmp_path: Path) -> None:
    shape = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 768, "norm_topk_prob": True}
    network = random_network(Qwen3MoeForCausalLM, Qwen3MoeConfig(**shape))
    fields = {"expert_count": 4, "expert_used_count": 2, "attention__key_length": 8}
    whole = tiny_gguf(tmp_path / "whole.gguf", network=network, arch="qwen3moe", change=moe_tensors(half=False), **fields)
    half = tiny_gguf(tmp_path / "half.gguf", network=network, arch="qwen3moe", change=moe_tensors(half=True), **fields)
    with pytest.raises(ModelError, match=r"holds .* weights, and the model that transformers makes of it has"):
        opened(half)
    model = opened(whole)
    torch.testing.assert_close(logits(model.network), logits(network), atol=1e-4, rtol=1e-4)


def llama_cpp_factors(rope: dict[str, Any], head: int) -> np.ndarray:
    """`rope_freqs.weight` of Llama 3.1, by the arithmetic of llama.cpp's converter."""
    factors = []
    for frequency in rope["rope_theta"] ** -(np.arange(0, head, 2, dtype=np.float64) / head):
        wavelength, trained = 2 * np.pi / frequency, rope["original_max_position_embeddings"]
        if wavelength < trained / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > trained / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (trained / wavelength - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 64
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}
BETAS = {"rope__scaling__yarn_beta_fast": 16.0, "rope__scaling__yarn_beta_slow": 2.0}
IN_YARN = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 64}


@pytest.mark.parametrize(
    ("rope", "fields"),
    [
        (LLAMA3, {}),
        (LINEAR, {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}),
        (LINEAR, {"rope__scaling__factor": 4.0}),  # linear is what llama.cpp takes where no type is said
        (LINEAR, {"rope__scale_linear": 4.0}),  # of the first files
        (YARN, IN_YARN),
        (
            YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
            IN_YARN | BETAS,
        ),
        (YARN | {"attention_factor": 0.5 * (0.1 * np.log(4.0) + 1)}, IN_YARN | {"rope__scaling__attn_factor": 0.5}),
        ({"rope_type": "default", "rope_theta": 100.0}, {"rope__scaling__type": "none", "rope__dimension_count": 8}),
    ],
)
def test_scaled_rotary_positions_of_a_gguf_are_those_of_the_model(rope: dict[str, Any], fields: dict[str, Any], tmp_path: Path) -> None:
    network = random_network(LlamaForCausalLM, LlamaConfig(**GROUPED, rope_parameters=dict(rope)))
    plain = random_network(LlamaForCausalLM, LlamaConfig(**GROUPED, rope_parameters={"rope_type": "default", "rope_theta": 100.0}))

    def change(tensors: dict[str, np.ndarray]) -> None:
        if rope is LLAMA3:
            tensors["rope_freqs.weight"] = llama_cpp_factors(rope, 8)

    model = opened(tiny_gguf(tmp_path / "scaled.gguf", network=network, change=change, **fields))
    torch.testing.assert_close(logits(model.network, LONG), logits(network, LONG), atol=1e-3, rtol=1e-3)
    assert rope["rope_type"] == "default" or (logits(plain, LONG) - logits(network, LONG)).abs().max() > 0.3


def test_factors_for_short_and_long_texts_are_read(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [1.0, 3.0, 6.0, 9.0]}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": 64, **factors}
    shape = {name: value for name, value in GROUPED.items() if name != "head_dim"}
    config = Phi3Config(**shape, rope_parameters=rope, original_max_position_embeddings=64, tie_word_embeddings=False)
    network = random_network(Phi3ForCausalLM, config)

    def change(tensors: dict[str, np.ndarray]) -> None:
        for length in ("short", "long"):
            tensors[f"rope_factors_{length}.weight"] = np.array(factors[f"{length}_factor"], dtype=np.float32)

    fields = {"rope__scaling__original_context_length": 64, "rope__dimension_count": 8}
    fields["rope__scaling__attn_factor"] = float(np.sqrt(1 + np.log(256 / 64) / np.log(64)))
    model = opened(tiny_gguf(tmp_path / "phi3.gguf", network=network, arch="phi3", change=change, **fields))
    for ids in (LONG, LONG[:, :30]):
        torch.testing.assert_close(logits(model.network, ids), logits(network, ids), atol=1e-3, rtol=1e-3)


def test_layers_with_a_window_are_not_scaled(tmp_path: Path) -> None:
    rope = {"full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    shape = {**GROUPED, "num_hidden_layers": 6, "sliding_window": 16, "tie_word_embeddings": True}
    network = random_network(Gemma3ForCausalLM, Gemma3TextConfig(**shape, rope_parameters=rope))
    fields = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0, "attention__key_length": 8, "attention__sliding_window": 16}
    path = tiny_gguf(
        tmp_path / "gemma.gguf", network=network, arch="gemma3", change=lambda tensors: tensors.pop("output.weight") is None, **fields
    )
    model = opened(path)
    assert model.network.config.rope_parameters["full_attention"]["factor"] == 4.0
    torch.testing.assert_close(logits(model.network, LONG), logits(network, LONG), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope__scaling__type": "longrope"}, r"rope.scaling.type 'longrope' with no factors"),
        ({"rope__scaling__type": "hyper", "rope__scaling__factor": 2.0}, "rope.scaling.type 'hyper'"),
        (IN_YARN | {"rope__scaling__yarn_log_multiplier": 0.1}, "rope.scaling.yarn_log_multiplier"),
        ({"rope__dimension_count": 4}, "head_dim|rotates 4 of|mismatch"),
    ],
)
def test_scaling_that_is_not_known_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        opened(tiny_gguf(tmp_path / "odd.gguf", **fields))
    assert not converted(tmp_path)


@pytest.mark.slow
def test_the_embedded_model_is_converted_exactly(tmp_path: Path) -> None:
    from gguf import GGUFReader, dequantize

    model = open_model("embedded:smollm2", device="cpu")
    (folder,) = converted(tmp_path)
    assert (folder / "model.safetensors").is_file()
    assert (model.d_model, model.n_layers, len(model.tokenizer)) == (576, 30, 49_152)
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.17.ffn_down.weight": "model.layers.17.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    weights = model.network.state_dict()
    for tensor in GGUFReader(EMBEDDED_MODELS["embedded:smollm2"].locate()[0]).tensors:
        if tensor.name in names:
            assert np.array_equal(dequantize(tensor.data, tensor.tensor_type), weights[names.pop(tensor.name)].numpy())
    assert not names
    question, answer = "What is the capital of France?", " Paris"
    right, wrong = model.logprobs([Chat.ask(question, "The capital of France is" + end) for end in (answer, " Berlin")])
    assert right.sum() > wrong.sum() + 2
