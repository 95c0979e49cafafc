"""Dictionaries: sparse encoding against plain dense formulas and against sae-lens, and folders that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from interp.dictionaries import Dictionary, SparseCodes, dictionary_key, load_dictionary, save_topk
from interp.errors import DictionaryError

HOOK = "blocks.1.hook_resid_post"
D_IN, LATENTS = 12, 40


def random_weights(seed: int = 0, d_in: int = D_IN, latents: int = LATENTS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(d_in, latents, generator=generator),
        "b_enc": torch.randn(latents, generator=generator),
        "W_dec": torch.randn(latents, d_in, generator=generator),
        "b_dec": torch.randn(d_in, generator=generator),
    }


def residuals(tokens: int = 50, seed: int = 1, d_in: int = D_IN) -> torch.Tensor:
    return torch.randn(tokens, d_in, generator=torch.Generator().manual_seed(seed))


def folder_with(folder: Path, weights: dict[str, torch.Tensor], **config: Any) -> Path:
    """A folder written by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": LATENTS, "apply_b_dec_to_input": False, **config}))
    return folder


def dense(codes: SparseCodes, latents: int = LATENTS) -> torch.Tensor:
    return torch.zeros(len(codes.values), latents).scatter_add(1, codes.indices, codes.values)


def topk_by_sorting(pre: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of each row, rectified, everything else zero: by a full sort."""
    kept = torch.zeros_like(pre)
    for row, order in enumerate(pre.argsort(dim=1, descending=True)):
        kept[row, order[:k]] = pre[row, order[:k]].clamp(min=0)
    return kept


def test_what_save_topk_writes_load_dictionary_reads(tmp_path: Path) -> None:
    weights = random_weights()
    save_topk(tmp_path / "deep" / "sae", weights, 5, HOOK, "some/model")
    loaded = load_dictionary(tmp_path / "deep" / "sae")
    for name, tensor in (("W_enc", loaded.w_enc), ("b_enc", loaded.b_enc), ("W_dec", loaded.w_dec), ("b_dec", loaded.b_dec)):
        assert torch.equal(tensor, weights[name])
    assert (loaded.architecture, loaded.k, loaded.threshold) == ("topk", 5, None)
    assert (loaded.d_in, loaded.n_latents, loaded.hook_point) == (D_IN, LATENTS, HOOK)
    assert not loaded.subtract_b_dec
    assert loaded.at("blocks.0.hook_resid_pre").hook_point == "blocks.0.hook_resid_pre"


def test_saving_the_same_weights_gives_the_same_key_and_others_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_topk(tmp_path / name, random_weights(seed), 5, HOOK, "some/model")
    save_topk(tmp_path / "d", random_weights(0), 6, HOOK, "some/model")
    keys = [dictionary_key(tmp_path / name) for name in "abcd"]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("k", [1, 7, LATENTS])
def test_topk_encoding_equals_the_dense_formula(tmp_path: Path, k: int, subtract: bool) -> None:
    weights, x = random_weights(), residuals()
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="topk", k=k, apply_b_dec_to_input=subtract))
    codes = loaded.encode(x)
    pre = (x - weights["b_dec"] if subtract else x) @ weights["W_enc"] + weights["b_enc"]
    assert codes.values.shape == codes.indices.shape == (50, k)
    torch.testing.assert_close(dense(codes), topk_by_sorting(pre, k))
    torch.testing.assert_close(loaded.decode(codes), topk_by_sorting(pre, k) @ weights["W_dec"] + weights["b_dec"])


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_jumprelu_and_standard_equal_the_dense_formula(tmp_path: Path, architecture: str, subtract: bool) -> None:
    weights, x = random_weights(), residuals()
    threshold = torch.linspace(-1.0, 6.0, LATENTS)  # some below zero, where rectification decides
    extra = {"threshold": threshold} if architecture == "jumprelu" else {}
    loaded = load_dictionary(folder_with(tmp_path, weights | extra, architecture=architecture, apply_b_dec_to_input=subtract))
    assert loaded.k is None
    codes = loaded.encode(x)
    pre = (x - weights["b_dec"] if subtract else x) @ weights["W_enc"] + weights["b_enc"]
    expected = pre.clamp(min=0) * (pre > threshold) if architecture == "jumprelu" else pre.clamp(min=0)
    assert codes.values.shape[1] < LATENTS  # never dense
    torch.testing.assert_close(dense(codes), expected)
    torch.testing.assert_close(loaded.decode(codes), expected @ weights["W_dec"] + weights["b_dec"])


def test_a_pre_activation_at_the_threshold_is_off(tmp_path: Path) -> None:
    weights = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3), "b_dec": torch.zeros(3), "threshold": torch.ones(3)}
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="jumprelu"))
    codes = loaded.encode(torch.tensor([[1.0, 1.0000001, 0.5], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(dense(codes, 3), torch.tensor([[0.0, 1.0000001, 0.0], [0.0, 0.0, 0.0]]))
    assert codes.counts(3).tolist() == [0, 1, 0]


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_chunks_make_no_difference_and_no_tokens_give_no_codes(tmp_path: Path, architecture: str) -> None:
    weights = random_weights() | {"threshold": torch.full((LATENTS,), 2.0)}
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture=architecture, k=4))
    whole, parts = loaded.encode(residuals()), loaded.encode(residuals(), chunk=7)
    torch.testing.assert_close(dense(parts), dense(whole))
    empty = loaded.encode(residuals(0))
    assert len(empty.values) == 0
    assert empty.counts(LATENTS).sum() == 0
    assert loaded.decode(empty).shape == (0, D_IN)


def test_rescaling_by_decoder_norms_is_folded_in(tmp_path: Path) -> None:
    weights, x = random_weights(), residuals()
    weights["W_dec"] *= torch.linspace(0.1, 4.0, LATENTS)[:, None]
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="topk", k=6, rescale_acts_by_decoder_norm=True))
    norms = weights["W_dec"].norm(dim=1)
    acts = topk_by_sorting((x @ weights["W_enc"] + weights["b_enc"]) * norms, 6)
    codes = loaded.encode(x)
    torch.testing.assert_close(loaded.w_dec.norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(dense(codes), acts)
    torch.testing.assert_close(loaded.decode(codes), (acts / norms) @ weights["W_dec"] + weights["b_dec"])


def test_half_precision_residuals_are_encoded_in_float32(tmp_path: Path) -> None:
    loaded = load_dictionary(folder_with(tmp_path, random_weights(), architecture="topk", k=3))
    x = residuals().bfloat16()
    torch.testing.assert_close(dense(loaded.encode(x)), dense(loaded.encode(x.float())))
    assert loaded.encode(x).values.dtype == torch.float32


@settings(deadline=None, derandomize=True, max_examples=60)
@given(tokens=st.integers(0, 30), latents=st.integers(1, 20), k=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_counts_sums_and_columns_equal_the_dense_ones(tokens: int, latents: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(seed, latents=latents)
    sae = Dictionary(weights["W_enc"], weights["b_enc"], weights["W_dec"], weights["b_dec"], "topk", min(k, latents), None, False, HOOK)
    codes = sae.encode(torch.randn(tokens, D_IN, generator=generator))
    table = dense(codes, latents)
    assert torch.equal(codes.counts(latents), (table > 0).sum(0))
    torch.testing.assert_close(codes.sums(latents), table.double().sum(0))
    for latent in range(latents):
        assert torch.equal(codes.column(latent), table[:, latent])
    torch.testing.assert_close(sae.decode(codes), table @ weights["W_dec"] + weights["b_dec"], atol=1e-4, rtol=1e-4)


def test_directions_are_unit_decoder_rows(tmp_path: Path) -> None:
    weights = random_weights()
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="standard"))
    rows = loaded.directions([3, LATENTS - 1, 3])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rows[1] * weights["W_dec"][-1].norm(), weights["W_dec"][-1])
    for bad in ([LATENTS], [-1], [0, 99]):
        with pytest.raises(DictionaryError, match=rf"latents 0 to {LATENTS - 1}, not"):
            loaded.directions(bad)


def test_residuals_of_another_width_are_refused(tmp_path: Path) -> None:
    loaded = load_dictionary(folder_with(tmp_path, random_weights(), architecture="standard"))
    with pytest.raises(DictionaryError, match=f"width 13 do not fit a dictionary of width {D_IN}"):
        loaded.encode(residuals(d_in=13))


@pytest.mark.parametrize("missing", ["cfg.json", "sae_weights.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder_with(tmp_path, random_weights(), architecture="topk", k=4)
    (tmp_path / missing).unlink()
    with pytest.raises(DictionaryError, match=rf"no SAE in sae-lens' format \({missing} is missing\)"):
        load_dictionary(tmp_path)
    with pytest.raises(DictionaryError, match="no SAE in sae-lens' format"):
        load_dictionary(tmp_path / "absent")


@pytest.mark.parametrize("lacking", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_a_missing_tensor_is_named(tmp_path: Path, lacking: str) -> None:
    weights = random_weights() | {"threshold": torch.ones(LATENTS)}
    del weights[lacking]
    with pytest.raises(DictionaryError, match=f"damaged.* lacks {lacking}"):
        load_dictionary(folder_with(tmp_path, weights, architecture="jumprelu"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("W_enc", (D_IN, LATENTS + 1)), ("W_enc", (D_IN,)), ("W_dec", (D_IN, LATENTS)), ("b_enc", (LATENTS + 1,)), ("b_dec", (LATENTS,))],
)
def test_tensors_that_do_not_fit_each_other_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder = folder_with(tmp_path, random_weights() | {name: torch.zeros(shape)}, architecture="topk", k=4)
    with pytest.raises(DictionaryError, match="do not belong together"):
        load_dictionary(folder)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, random_weights(), architecture="topk", k=4)
    whole = (folder / "sae_weights.safetensors").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        (folder / "sae_weights.safetensors").write_bytes(damage)
        with pytest.raises(DictionaryError, match=r"is damaged: .*download it again"):
            load_dictionary(folder)
    (folder / "sae_weights.safetensors").write_bytes(whole)
    for text in ("{", "", "[1]"):
        (folder / "cfg.json").write_text(text)
        with pytest.raises(DictionaryError, match="is damaged"):
            load_dictionary(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "gated"}, "architecture 'gated' is not supported. Supported: topk, jumprelu, standard"),
        ({"architecture": "standard", "normalize_activations": "layer_norm"}, "normalize_activations must be folded"),
        ({"architecture": "topk"}, "k is None"),
        ({"architecture": "topk", "k": 0}, "k is 0"),
        ({"architecture": "topk", "k": LATENTS + 1}, f"k is {LATENTS + 1} .*1 to {LATENTS}"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(folder_with(tmp_path, random_weights(), **config))


def dense_by_sae_lens(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoding and reconstruction as sae-lens has them."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    with torch.no_grad():
        acts = sae.encode(x)
        return acts, sae.decode(acts)


def agrees_with_sae_lens(folder: Path) -> None:
    x = residuals(200)
    loaded = load_dictionary(folder)
    codes = loaded.encode(x)
    acts, reconstruction = dense_by_sae_lens(folder, x)
    torch.testing.assert_close(dense(codes, loaded.n_latents), acts)
    torch.testing.assert_close(loaded.decode(codes), reconstruction)
    assert int((acts > 0).sum()) > 200  # something fires


@pytest.mark.slow  # importing sae_lens takes many seconds
@pytest.mark.filterwarnings("ignore")
def test_sae_lens_reads_what_we_save_and_encodes_alike(tmp_path: Path) -> None:
    save_topk(tmp_path, random_weights(), 6, HOOK, "some/model")
    agrees_with_sae_lens(tmp_path)
    from sae_lens import SAE

    sae = SAE.load_from_disk(tmp_path)
    assert type(sae).__name__ == "TopKSAE"
    assert sae.cfg.metadata.hook_name == HOOK
    assert sae.cfg.metadata.model_name == "some/model"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["topk", "topk rescaled", "jumprelu", "standard"])
def test_we_read_what_sae_lens_saves_and_encode_alike(tmp_path: Path, architecture: str, subtract: bool) -> None:
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

    common = {"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": subtract}
    if architecture == "jumprelu":
        sae: Any = JumpReLUSAE(JumpReLUSAEConfig(**common))
    elif architecture == "standard":
        sae = StandardSAE(StandardSAEConfig(**common))
    else:
        sae = TopKSAE(TopKSAEConfig(**common, k=6, rescale_acts_by_decoder_norm=architecture.endswith("rescaled")))
    weights = random_weights(3) | {"threshold": torch.linspace(0.0, 5.0, LATENTS)}
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name])
    sae.cfg.metadata.hook_name = HOOK
    sae.save_model(tmp_path)
    agrees_with_sae_lens(tmp_path)
    loaded = load_dictionary(tmp_path)
    assert loaded.architecture == architecture.split()[0]
    assert loaded.hook_point == HOOK


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard", "hook_name": HOOK},  # what the config leaves out has the format's default
        {"hook_name": HOOK, "normalize_activations": False},
        {"architecture": "standard", "hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}},
    ],
)
def test_old_and_sparing_configs_mean_what_they_mean_to_sae_lens(tmp_path: Path, config: dict[str, Any]) -> None:
    folder_with(tmp_path, random_weights())
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", **config}))
    agrees_with_sae_lens(tmp_path)
    assert load_dictionary(tmp_path).hook_point == HOOK
    assert set(load_file(tmp_path / "sae_weights.safetensors")) == {"W_enc", "b_enc", "W_dec", "b_dec"}
