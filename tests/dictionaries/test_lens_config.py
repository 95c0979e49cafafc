"""Fields of sae-lens configs that change what an SAE reads: honoured, or refused or warned of by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interp.core.errors import DictionaryError
from interp.dictionaries.load import load_dictionary
from tests.dictionaries.test_dictionary_files import example
from tests.helpers.tiny import D_MODEL, IDS, tiny_network

HOOK = "blocks.1.hook_resid_post"
M = 40


def saved(folder: Path, fields: dict[str, Any], metadata: dict[str, Any] | None = None, architecture: str = "standard") -> Path:
    """An SAE of today's form, or of that before 6 where `metadata` is None and all is at the top."""
    weights, config = example(architecture)
    save_file(weights, folder / "sae_weights.safetensors")
    if metadata is None:
        config = {"hook_name": HOOK, "model_name": "gpt2", "d_in": 3, "d_sae": 7, **fields}
    else:
        config = config | fields | {"metadata": config["metadata"] | {"model_name": "gpt2"} | metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def residuals(centred: bool) -> torch.Tensor:
    """Of a tiny GPT-2 after block 1; `centred`: with what it writes into the residual stream centred, as TransformerLens does."""
    network = tiny_network("gpt2").eval()
    if centred:
        body = network.transformer
        writers = [body.wte.weight, body.wpe.weight]
        for block in body.h:
            writers += [part.c_proj.weight for part in (block.attn, block.mlp)] + [part.c_proj.bias for part in (block.attn, block.mlp)]
        for weight in writers:
            weight.data -= weight.data.mean(-1, keepdim=True)
    with torch.inference_mode():
        states: torch.Tensor = network(IDS, output_hidden_states=True).hidden_states[2][0]
    return states


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_an_sae_of_centred_residuals_reads_raw_ones(tmp_path: Path, architecture: str, subtract: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    _, config = example(architecture)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (D_MODEL, M), "W_dec": (M, D_MODEL), "b_dec": (D_MODEL,)}
    names = ("b_gate", "r_mag", "b_mag") if architecture == "gated" else ("b_enc", "threshold")
    weights = {name: torch.randn(shape, generator=generator) for name, shape in (shapes | dict.fromkeys(names, (M,))).items()}
    config |= {"apply_b_dec_to_input": subtract} | ({"k": 6} if architecture == "topk" else {})
    save_file(weights, tmp_path / "sae_weights.safetensors")
    latents = {}
    for given in ({}, {"center_writing_weights": True}):
        config["metadata"] |= {"model_name": "gpt2", "model_from_pretrained_kwargs": given}
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            sae = load_dictionary(tmp_path)
        assert any("centred residuals (center_writing_weights)" in str(warning.message) for warning in said) == bool(given)
        latents[bool(given)] = sae.encode(residuals(centred=not given)).dense()
    torch.testing.assert_close(latents[True], latents[False], atol=1e-4, rtol=1e-4)
    assert int((latents[True] > 0).sum()) > 50
    assert not torch.allclose(residuals(True), residuals(False), atol=0.1)


def test_rms_norm_leaves_nothing_to_centre(tmp_path: Path) -> None:
    plain = load_dictionary(saved(tmp_path, {}, {}))
    with pytest.warns(UserWarning, match="center_writing_weights does nothing in a model with RMSNorm"):
        sae = load_dictionary(
            saved(tmp_path, {}, {"model_name": "google/gemma-2-2b", "model_from_pretrained_kwargs": {"center_writing_weights": True}})
        )
    assert torch.equal(sae.w_enc, plain.w_enc)


REFUSED = [
    ({"reshape_activations": "hook_z"}, "reshape_activations: hook_z"),
    ({"hook_head_index": 3}, "hook_head_index: 3"),
    ({"hook_head_index": 0}, "hook_head_index: 0"),
    ({"hook_name_out": "blocks.1.hook_mlp_out"}, "hook_name_out: blocks.1.hook_mlp_out"),
    ({"normalize_activations": "layer_norm"}, "normalize_activations must be folded"),
    ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations must be folded"),
    ({"normalize_activations": True}, "normalize_activations must be folded"),
]
WARNED = [
    ({"prepend_bos": False}, r"without a BOS token before its texts \(prepend_bos\)"),
    ({"seqpos_slice": [1, None]}, r"on the positions \[1, None\] alone \(seqpos_slice\)"),
    ({"exclude_special_tokens": True}, r"without special tokens \(exclude_special_tokens\)"),
    ({"exclude_special_tokens": [0, 2]}, r"without special tokens"),
    (
        {"model_from_pretrained_kwargs": {"fold_ln": True, "revision": "step1000"}},
        r"with revision=step1000 \(model_from_pretrained_kwargs\)",
    ),
    ({"input_scaling": 3.5, "l1_coefficient": 5}, "input_scaling in its config is not known"),
    ({"layer_norm_input": True}, "layer_norm_input in its config is not known"),
]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str, old: bool) -> None:
    top = old or not set(fields) & {"hook_head_index", "hook_name_out"}
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(saved(tmp_path, fields if top else {}, None if old else {} if top else fields))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("fields", "message"), WARNED)
def test_a_field_of_its_training_is_warned_of_by_name(tmp_path: Path, fields: dict[str, Any], message: str, old: bool) -> None:
    with pytest.warns(UserWarning, match=message):
        load_dictionary(saved(tmp_path, fields if old else {}, None if old else fields))


@pytest.mark.parametrize("function", ["tanh-relu", "leaky_relu"])
def test_an_old_activation_function_is_refused(tmp_path: Path, function: str) -> None:
    with pytest.raises(DictionaryError, match=f"activation_fn: {function}"):
        load_dictionary(saved(tmp_path, {"activation_fn_str": function}))


def test_a_config_of_a_whole_training_run_is_no_reason_to_warn(tmp_path: Path) -> None:
    fields = {
        **{
            "model_from_pretrained_kwargs": {"fold_ln": False, "center_writing_weights": False},
            "prepend_bos": True,
            "hook_head_index": None,
        },
        **{"lp_norm": 1.0, "scale_sparsity_penalty_by_decoder_norm": True, "normalize_sae_decoder": False, "seqpos_slice": [None]},
        **{"activation_fn": "relu", "normalize_activations": "none", "exclude_special_tokens": False, "mse_loss_normalization": None},
        **{"b_dec_init_method": "zeros", "l1_coefficient": 5, "hook_layer": 1, "store_batch_size_prompts": 16, "dataset_path": "x/y"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dictionary(saved(tmp_path, fields)).hook_point == HOOK
