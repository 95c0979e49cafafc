"""Dictionaries: sparse encoding against plain dense formulas, and folders that cannot be used (agreement with sae-lens: test_sae_lens)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from interp.core.errors import DictionaryError
from interp.dictionaries.files import dictionary_key
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.sae import SAE
from tests.helpers.saes import save_topk

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
    assert codes.row_starts.diff().tolist() == [k] * 50
    torch.testing.assert_close(codes.dense(), topk_by_sorting(pre, k))
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
    assert int(codes.row_starts.diff().max()) < LATENTS  # never dense
    torch.testing.assert_close(codes.dense(), expected)
    torch.testing.assert_close(loaded.decode(codes), expected @ weights["W_dec"] + weights["b_dec"])


def gated_weights(seed: int = 0, d_in: int = D_IN, latents: int = LATENTS) -> dict[str, torch.Tensor]:
    weights = random_weights(seed, d_in, latents)
    generator = torch.Generator().manual_seed(seed + 1)
    del weights["b_enc"]
    return weights | {name: torch.randn(latents, generator=generator) for name in ("b_gate", "r_mag", "b_mag")}


@pytest.mark.parametrize("subtract", [False, True])
def test_gated_equals_the_dense_formula(tmp_path: Path, subtract: bool) -> None:
    weights, x = gated_weights(), residuals()
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="gated", apply_b_dec_to_input=subtract))
    pre = (x - weights["b_dec"] if subtract else x) @ weights["W_enc"]
    magnitude = (pre * weights["r_mag"].exp() + weights["b_mag"]).clamp(min=0)
    expected = magnitude * (pre + weights["b_gate"] > 0)
    codes = loaded.encode(x)
    torch.testing.assert_close(codes.dense(), expected)
    torch.testing.assert_close(loaded.decode(codes), expected @ weights["W_dec"] + weights["b_dec"])
    assert int(((pre + weights["b_gate"] > 0) & (magnitude == 0)).sum()) > 0  # some gates open on nothing
    assert bool((codes.values > 0).all())  # and those leave no entry


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    architecture=st.sampled_from(["topk", "jumprelu", "standard", "gated"]),
    tokens=st.integers(0, 20),
    latents=st.integers(1, 24),
    d_in=st.integers(1, 9),
    chunk=st.integers(1, 25),
    subtract=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_architecture_encodes_as_its_dense_formula(
    architecture: str, tokens: int, latents: int, d_in: int, chunk: int, subtract: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = gated_weights(seed, d_in, latents) | random_weights(seed, d_in, latents)
    k = 1 + seed % latents
    threshold = torch.randn(latents, generator=generator)
    sae = SAE(
        weights["W_enc"],
        weights["b_gate" if architecture == "gated" else "b_enc"],
        weights["W_dec"],
        weights["b_dec"],
        architecture,
        k if architecture == "topk" else None,
        threshold if architecture == "jumprelu" else None,
        subtract,
        HOOK,
        weights["r_mag"] if architecture == "gated" else None,
        weights["b_mag"] if architecture == "gated" else None,
    )
    x = torch.randn(tokens, d_in, generator=generator)
    raw = (x - weights["b_dec"] if subtract else x).double() @ weights["W_enc"].double()
    pre = raw + weights["b_enc"]
    expected = {
        "topk": lambda: topk_by_sorting(pre, k),
        "jumprelu": lambda: pre.clamp(min=0) * (pre > threshold),
        "standard": lambda: pre.clamp(min=0),
        "gated": lambda: (raw * weights["r_mag"].exp() + weights["b_mag"]).clamp(min=0) * (raw + weights["b_gate"] > 0),
    }[architecture]()
    codes = sae.encode(x, chunk)
    torch.testing.assert_close(codes.dense(), expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.decode(codes), (expected @ weights["W_dec"].double() + weights["b_dec"]).float(), atol=1e-3, rtol=1e-4)
    assert codes.n_tokens == tokens
    if architecture != "topk":  # memory follows what is active
        assert len(codes.values) == int((codes.dense() > 0).sum())
    torch.testing.assert_close(codes.sums(), codes.dense().sum(0))
    assert torch.equal(codes.counts(), (codes.dense() > 0).sum(0))


def test_one_busy_token_does_not_widen_the_others(tmp_path: Path) -> None:
    """A first token that lights up every latent is common; what is kept grows by its latents, not by tokens x latents."""
    sae = SAE(torch.eye(64), torch.zeros(64), torch.eye(64), torch.zeros(64), "standard", None, None, False, HOOK)
    x = torch.zeros(1000, 64)
    x[0] = 1.0
    x[torch.arange(1, 1000), torch.arange(1, 1000) % 64] = 2.0
    codes = sae.encode(x, 128)
    assert len(codes.values) == len(codes.latents) == 64 + 999
    torch.testing.assert_close(sae.decode(codes), x)
    assert codes.column(5)[[0, 5, 6]].tolist() == [1.0, 2.0, 0.0]


def test_residuals_that_are_not_finite_are_refused() -> None:
    sae = SAE(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), "standard", None, None, False, HOOK)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(DictionaryError, match=r"not finite\. Run the model in"):  # they would light up nothing, or everything
            sae.encode(torch.tensor([[0.0, bad, 1.0]]))


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
def test_what_is_saved_comes_back_the_same(tmp_path: Path, architecture: str) -> None:
    weights = gated_weights() | random_weights() | {"threshold": torch.linspace(0, 3, LATENTS)}
    extra = {"metadata": {"hook_name": HOOK, "model_name": "some/model", "reads": "difference"}}
    if architecture == "topk":
        extra |= {"k": 5}
    first = load_dictionary(folder_with(tmp_path / "a", weights, architecture=architecture, apply_b_dec_to_input=True, **extra))
    first.save(tmp_path / "b", {"steps": 3})
    again = load_dictionary(tmp_path / "b")
    for name in vars(first):
        mine, theirs = getattr(first, name), getattr(again, name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, name
    assert (again.reads, again.source, again.hook_point, again.subtract_b_dec) == ("difference", "some/model", HOOK, True)
    assert json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]["made"] == {"steps": 3}


def test_a_pre_activation_at_the_threshold_is_off(tmp_path: Path) -> None:
    weights = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3), "b_dec": torch.zeros(3), "threshold": torch.ones(3)}
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="jumprelu"))
    codes = loaded.encode(torch.tensor([[1.0, 1.0000001, 0.5], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(codes.dense(), torch.tensor([[0.0, 1.0000001, 0.0], [0.0, 0.0, 0.0]]))
    assert codes.counts().tolist() == [0, 1, 0]


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_chunks_make_no_difference_and_no_tokens_give_no_codes(tmp_path: Path, architecture: str) -> None:
    weights = random_weights() | {"threshold": torch.full((LATENTS,), 2.0)}
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture=architecture, k=4))
    whole, parts = loaded.encode(residuals()), loaded.encode(residuals(), chunk=7)
    torch.testing.assert_close(parts.dense(), whole.dense())
    empty = loaded.encode(residuals(0))
    assert len(empty.values) == 0
    assert empty.counts().sum() == 0
    assert loaded.decode(empty).shape == (0, D_IN)


def test_rescaling_by_decoder_norms_is_folded_in(tmp_path: Path) -> None:
    weights, x = random_weights(), residuals()
    weights["W_dec"] *= torch.linspace(0.1, 4.0, LATENTS)[:, None]
    loaded = load_dictionary(folder_with(tmp_path, weights, architecture="topk", k=6, rescale_acts_by_decoder_norm=True))
    norms = weights["W_dec"].norm(dim=1)
    acts = topk_by_sorting((x @ weights["W_enc"] + weights["b_enc"]) * norms, 6)
    codes = loaded.encode(x)
    torch.testing.assert_close(loaded.w_dec.norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(codes.dense(), acts)
    torch.testing.assert_close(loaded.decode(codes), (acts / norms) @ weights["W_dec"] + weights["b_dec"], atol=1e-4, rtol=1e-5)


def test_half_precision_residuals_are_encoded_in_float32(tmp_path: Path) -> None:
    loaded = load_dictionary(folder_with(tmp_path, random_weights(), architecture="topk", k=3))
    x = residuals().bfloat16()
    torch.testing.assert_close(loaded.encode(x).dense(), loaded.encode(x.float()).dense())
    assert loaded.encode(x).values.dtype == torch.float32


@settings(deadline=None, derandomize=True, max_examples=60)
@given(tokens=st.integers(0, 30), latents=st.integers(1, 20), k=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_counts_sums_and_columns_equal_the_dense_ones(tokens: int, latents: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(seed, latents=latents)
    sae = SAE(weights["W_enc"], weights["b_enc"], weights["W_dec"], weights["b_dec"], "topk", min(k, latents), None, False, HOOK)
    x = torch.randn(tokens, D_IN, generator=generator)
    codes, table = sae.encode(x), topk_by_sorting(x @ weights["W_enc"] + weights["b_enc"], min(k, latents))
    assert torch.equal(codes.counts(), (table > 0).sum(0))
    torch.testing.assert_close(codes.sums(), table.sum(0), atol=1e-4, rtol=1e-4)
    for latent in range(latents):
        torch.testing.assert_close(codes.column(latent), table[:, latent], atol=1e-5, rtol=1e-5)
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
    with pytest.raises(DictionaryError, match=rf"\[\d+, 13\] do not fit a dictionary that reads \[tokens, {D_IN}\]"):
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
        ({"architecture": "abstopk"}, "architecture 'abstopk' is not supported. Supported: topk, jumprelu, standard, gated"),
        ({"architecture": "standard", "normalize_activations": "layer_norm"}, "normalize_activations must be folded"),
        ({"architecture": "topk"}, "k is None"),
        ({"architecture": "topk", "k": 0}, "k is 0"),
        ({"architecture": "topk", "k": LATENTS + 1}, f"k is {LATENTS + 1} .*1 to {LATENTS}"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(folder_with(tmp_path, random_weights(), **config))
