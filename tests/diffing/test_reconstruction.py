"""What a dictionary reconstructs of two models, and of the difference between them: against dense arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.sae import SAE
from interp.diffing.moments import load_diff
from interp.diffing.pairings import collect
from interp.diffing.reconstruction import Reconstruction, dictionary_fit, principal_directions
from tests.helpers.diffing_truth import as_answers, dense_read, random_crosscoder, random_dictionary, texts
from tests.helpers.tiny import tiny_model

WRITTEN = {"base": as_answers(texts()), "tuned": as_answers(texts(3))}


@pytest.mark.parametrize("dictionary", [random_dictionary(), random_dictionary(architecture="standard"), random_crosscoder()])
def test_sums_equal_a_dense_computation(dictionary: SAE | Crosscoder, tmp_path: Path) -> None:
    diff = collect(tiny_model(0), tiny_model(1), dictionary, WRITTEN, rows=4)
    diff.save(tmp_path / "moments.safetensors")
    saved = load_diff(tmp_path / "moments.safetensors")[0].reconstructions
    residuals, errors = {}, {}
    for writer, first in (("base", 0), ("tuned", 3)):
        reads = [dense_read(seed, texts(first)) for seed in (0, 1)]
        response = reads[0]["part"] > 0
        x = torch.stack([read["x"][response] for read in reads])
        codes = dictionary.encode_models(x.transpose(0, 1))
        residuals[writer] = x.double()
        errors[writer] = torch.stack(
            [own - dictionary.decode_model(code, m) for m, (own, code) in enumerate(zip(x, codes, strict=True))]
        ).double()
        for model in (0, 1):
            for question in range(3):
                own = residuals[writer][model][reads[0]["owner"][response] == question]
                torch.testing.assert_close(saved[writer].question_means(model)[question], own.mean(0), atol=1e-4, rtol=1e-3)
    found = dictionary_fit(saved["base"], saved["tuned"])
    for model, name in enumerate(("base", "tuned")):
        x, error = residuals[name][model], errors[name][model]
        assert found[f"fvu_{name}"] == pytest.approx(float(error.square().sum() / (x - x.mean(0)).square().sum()), rel=1e-3)
    mean, mean_error = (sums["tuned"][1].mean(0) - sums["base"][0].mean(0) for sums in (residuals, errors))
    assert found["share_of_mean_difference"] == pytest.approx(1 - float(mean_error.square().sum() / mean.square().sum()), abs=1e-3)
    shift, missed = (torch.cat([own[1] - own[0] for own in sums.values()]) for sums in (residuals, errors))
    assert found["share_of_paired_difference"] == pytest.approx(1 - float(missed.square().sum() / shift.square().sum()), abs=1e-3)


def known(x: torch.Tensor, errors: torch.Tensor) -> Reconstruction:
    """Two questions, the tokens in turn."""
    made = Reconstruction.empty(2, x.shape[-1])
    made.add(x, errors, torch.arange(x.shape[1]) % 2)
    return made


def test_what_has_no_latent_is_missing_from_the_shares() -> None:
    """The tuned model has moved by 3 along one axis, which the dictionary holds, and by 4 along another, which it does not."""
    x = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    x[1, :, 0] += 3
    x[1, :, 1] += 4
    errors = torch.zeros_like(x)
    errors[1, :, 1] = 4
    found = dictionary_fit(known(x, errors), known(x, errors))
    assert found["share_of_mean_difference"] == pytest.approx(9 / 25)
    assert found["share_of_paired_difference"] == pytest.approx(9 / 25)
    assert found["fvu_base"] == 0
    assert found["fvu_tuned"] == pytest.approx(40 * 16 / float((x[1] - x[1].mean(0)).square().sum()))


def test_equal_models_differ_in_nothing_that_could_be_held() -> None:
    x = torch.randn(1, 8, 4).expand(2, 8, 4)
    found = dictionary_fit(known(x, 0.1 * x), known(x, 0.1 * x))
    assert math.isnan(found["share_of_mean_difference"])
    assert math.isnan(found["share_of_paired_difference"])


def test_one_model_alone_on_a_text_reconstructs_no_difference() -> None:
    diff = collect(tiny_model(0), tiny_model(1), random_dictionary(), WRITTEN, ["on_policy"])
    assert not diff.reconstructions


def test_principal_directions_are_those_of_the_differences_by_question() -> None:
    """Six questions, whose differences are 5 along one axis and, with either sign, 2 along another."""
    base, tuned = torch.zeros(2, 6, 4), torch.zeros(2, 6, 4)
    tuned[1, :, 2] = -5
    tuned[1, :, 0] = torch.tensor([2.0, -2.0] * 3)
    read = []
    for x in (base, tuned):
        read.append(Reconstruction.empty(6, 4))
        read[-1].add(x + 7, x, torch.arange(6))
    first = principal_directions(*read, 1)
    assert first[0].tolist() == pytest.approx([0, 0, -1, 0], abs=1e-6)  # the way that the tuned model went
    assert principal_directions(*read, 2)[1].abs().tolist() == pytest.approx([1, 0, 0, 0], abs=1e-6)
    assert principal_directions(*read, 9).shape == (4, 4)
    scaled = principal_directions(*read, 2)
    torch.testing.assert_close(scaled @ scaled.T, torch.eye(2), atol=1e-6, rtol=0)
