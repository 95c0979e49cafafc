"""Crosscoders: sparse encoding of pairs against einsum, whose each latent is, and one model's side as a dictionary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import DictionaryError
from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.files import dictionary_config, write_dictionary
from interp.dictionaries.load import load_dictionary, load_sae
from interp.dictionaries.sae import SAE

HOOK = "blocks.1.hook_resid_post"
D_IN, LATENTS = 5, 16
ARCHITECTURES = ("crosscoder_topk", "crosscoder_jumprelu", "crosscoder_standard")


def crosscoder(
    architecture: str = "crosscoder_topk", seed: int = 0, d_in: int = D_IN, latents: int = LATENTS, n_models: int = 2, k: int = 3
) -> Crosscoder:
    generator = torch.Generator().manual_seed(seed)
    return Crosscoder(
        w_enc=torch.randn(n_models, d_in, latents, generator=generator),
        b_enc=torch.randn(latents, generator=generator),
        w_dec=torch.randn(latents, n_models, d_in, generator=generator),
        b_dec=torch.randn(n_models, d_in, generator=generator),
        architecture=architecture,
        k=k if architecture == "crosscoder_topk" else None,
        threshold=torch.randn(latents, generator=generator) if architecture == "crosscoder_jumprelu" else None,
        subtract_b_dec=False,
        hook_point=HOOK,
        models=tuple(f"model {n}" for n in range(n_models)),
    )


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    n_models=st.integers(1, 3),
    tokens=st.integers(0, 12),
    latents=st.integers(1, 16),
    d_in=st.integers(1, 6),
    chunk=st.integers(1, 13),
    seed=st.integers(0, 2**20),
)
def test_encoding_and_decoding_equal_einsum(
    architecture: str, n_models: int, tokens: int, latents: int, d_in: int, chunk: int, seed: int
) -> None:
    cross = crosscoder(architecture, seed, d_in, latents, n_models, k=1 + seed % latents)
    pair = torch.randn(tokens, n_models, d_in, generator=torch.Generator().manual_seed(seed + 1))
    pre = torch.einsum("tmd,mdl->tl", pair.double(), cross.w_enc.double()) + cross.b_enc
    if cross.k is not None:
        rank = pre.argsort(dim=1, descending=True).argsort(dim=1)
        expected = pre.clamp(min=0) * (rank < cross.k)
    elif cross.threshold is not None:
        expected = pre.clamp(min=0) * (pre > cross.threshold)
    else:
        expected = pre.clamp(min=0)
    codes = cross.encode(pair, chunk)
    torch.testing.assert_close(codes.dense(), expected.float(), atol=1e-4, rtol=1e-4)
    reconstruction = torch.einsum("tl,lmd->tmd", expected, cross.w_dec.double()) + cross.b_dec
    assert cross.decode(codes).shape == (tokens, n_models, d_in)
    torch.testing.assert_close(cross.decode(codes), reconstruction.float(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_loaded(tmp_path: Path, architecture: str) -> None:
    made = crosscoder(architecture)
    weights = {"W_enc": made.w_enc, "W_dec": made.w_dec, "b_enc": made.b_enc, "b_dec": made.b_dec}
    if made.threshold is not None:
        weights["threshold"] = made.threshold
    write_dictionary(tmp_path / "a", weights, dictionary_config(architecture, D_IN, LATENTS, HOOK, made.models, made.k))
    loaded = load_dictionary(tmp_path / "a")
    for name in vars(made):
        mine, theirs = getattr(made, name), getattr(loaded, name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, name
    assert (loaded.n_models, loaded.d_in, loaded.n_latents) == (2, D_IN, LATENTS)
    assert loaded.content == made.content != crosscoder(architecture, seed=1).content
    with pytest.raises(DictionaryError, match=r"is a crosscoder, which reads 2 models at once\. Give an SAE of one"):
        load_sae(tmp_path / "a")


def test_labels_say_whose_a_latent_is() -> None:
    cross = crosscoder(latents=6)
    row = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])
    for latent, (base, tuned) in enumerate([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (9.0, 1.0), (0.0, 0.0), (1.0, 19.0)]):
        cross.w_dec[latent] = torch.stack([base * row, tuned * row.flip(0)])
    torch.testing.assert_close(cross.relative_norms(), torch.tensor([0.0, 1.0, 0.5, 0.1, 0.5, 0.95]))
    assert cross.labels(0.1 - 1e-6).tolist() == ["base-only", "tuned-only", "shared", "shared", "shared", "tuned-only"]
    assert cross.labels(0.3, 0.96).tolist() == ["base-only", "tuned-only", "shared", "base-only", "shared", "shared"]
    for low, high in ((-0.1, 0.9), (0.9, 0.1), (0.1, 1.1)):
        with pytest.raises(DictionaryError, match="relative norms run from 0 to 1"):
            cross.labels(low, high)
    with pytest.raises(DictionaryError, match="this crosscoder reads 3 models"):
        crosscoder(n_models=3).labels()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_model_has_the_joint_code_and_a_decoder_row_of_its_own(architecture: str) -> None:
    cross = crosscoder(architecture)
    pair = torch.randn(20, 2, D_IN, generator=torch.Generator().manual_seed(3))
    codes = cross.encode(pair)
    whole = torch.einsum("tl,lmd->tmd", codes.dense(), cross.w_dec) + cross.b_dec
    for model, own in enumerate(cross.encode_models(pair)):
        assert torch.equal(own.dense(), codes.dense())
        torch.testing.assert_close(cross.decode_model(own, model), whole[:, model], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cross.directions([2], model)[0] * cross.w_dec[2, model].norm(), cross.w_dec[2, model])
        assert torch.equal(cross.decoder_bias(model), cross.b_dec[model])
    assert torch.equal(cross.directions([2, 5]), cross.directions([2, 5], 1))  # unless said otherwise, the tuned model's
    cross.w_dec[2, 0] = 0
    with pytest.raises(DictionaryError, match=r"decoder rows of the latents \[2\] are zero in this model"):
        replace(cross, w_dec=cross.w_dec).directions([2, 5], 0)
    with pytest.raises(DictionaryError, match=r"has latents 0 to 15, not \[16\]"):
        cross.directions([16])


def test_an_sae_encodes_and_decodes_every_model_by_itself() -> None:
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, D_IN, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = SAE(rows.T.contiguous(), torch.zeros(LATENTS), rows, torch.zeros(D_IN), "topk", 3, None, True, HOOK)
    pair = torch.randn(20, 2, D_IN, generator=torch.Generator().manual_seed(3))
    for model, own in enumerate(sae.encode_models(pair)):
        alone = sae.encode(pair[:, model].contiguous())
        assert torch.equal(own.dense(), alone.dense())
        assert torch.equal(sae.decode_model(own, model), sae.decode(alone))
    assert sae.relative_norms() is None


@pytest.mark.parametrize("shape", [(4, D_IN), (4, 1, D_IN), (4, 2, D_IN + 1), (4, 2 * D_IN)])
def test_residuals_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DictionaryError, match=rf"do not fit a dictionary that reads \[tokens, 2, {D_IN}\]"):
        crosscoder().encode(torch.zeros(shape))


def test_residuals_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DictionaryError, match="not finite"):
        crosscoder().encode(torch.full((1, 2, D_IN), torch.nan))
