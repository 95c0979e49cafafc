"""The saved dictionary does on raw residuals what was trained on normalised ones; what every step keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from interp.dictionaries.load import load_dictionary
from sae_training.architectures import base
from sae_training.architectures.base import SparseCoder, StepContext
from sae_training.architectures.batch_topk import BatchTopKCoder
from sae_training.config import TrainConfig
from sae_training.distributed import World
from sae_training.normalise import Normaliser
from sae_training.results import export
from sae_training.sae_trainer import SAETrainer
from tests.helpers.small_coders import CASES, D_IN, DEAD, KINDS, LATENTS, TOKENS, all_cases, as_if_trained, made, preactivations, randn
from tests.helpers.toy_features import HOOK


def activations(coder: SparseCoder, x: torch.Tensor) -> torch.Tensor:
    """What a dictionary does with normalised rows when it is used, one token by itself."""
    if isinstance(coder, BatchTopKCoder):
        pre = preactivations(coder, x)
        return pre * (pre * coder.norms() > coder.threshold)
    return coder.outcome(x, StepContext()).codes.dense()


def trainer_of(case: str, seed: int = 0, scale: float = 0.37) -> SAETrainer:
    config, n_models = CASES[case]
    reads = "pair" if n_models == 2 else "each"
    mean = 3 * randn(n_models, D_IN, seed=seed + 50) / scale
    settings = TrainConfig(architecture=config, reads=reads)
    return SAETrainer(settings, Normaliser(reads, mean, scale), (n_models, D_IN), 20, TOKENS, seed, torch.device("cpu"))


@pytest.mark.parametrize("scale", [0.01, 0.37, 20.0])
@all_cases
def test_the_saved_dictionary_does_on_raw_residuals_what_the_coder_does_on_normalised_ones(tmp_path: Path, case: str, scale: float) -> None:
    trainer = trainer_of(case, scale=scale)
    coder, normaliser = as_if_trained(trainer.coder), trainer.normaliser
    with torch.no_grad():
        coder.after_step()
    n_models = CASES[case][1]
    raw = normaliser.mean + randn(200, n_models, D_IN, seed=9) / scale
    with torch.no_grad():
        acts = activations(coder, normaliser(raw))
        reconstruction = (acts @ coder.decoder + coder.decoder_bias) / scale + normaliser.mean.flatten()
        norms = coder.norms()
    assert 1 < float((acts > 0).sum(1).double().mean()) < LATENTS - 1
    export(trainer, HOOK, ["base", "tuned"][:n_models], {"steps": 1}, tmp_path / "a")
    if n_models == 2:
        crosscoder = load_dictionary(tmp_path / "a")
        assert (crosscoder.hook_point, crosscoder.models) == (HOOK, ("base", "tuned"))
        codes = crosscoder.encode(raw)
        decoded = crosscoder.decode(codes).flatten(1)
        torch.testing.assert_close(crosscoder.w_dec.norm(dim=2).sum(1), torch.ones(LATENTS))
        shares = coder.decoder.detach().unflatten(1, (2, D_IN)).norm(dim=2)
        torch.testing.assert_close(crosscoder.relative_norms(), shares[:, 1] / shares.sum(1))
        if "dedicated" in case:
            assert set(crosscoder.labels()[:5]) == {"base-only"}
            assert set(crosscoder.labels()[5:12]) == {"tuned-only"}
    else:
        dictionary = load_dictionary(tmp_path / "a")
        assert (dictionary.hook_point, dictionary.source, dictionary.reads) == (HOOK, "base", "")
        codes = dictionary.encode(raw[:, 0])
        decoded = dictionary.decode(codes)
        torch.testing.assert_close(dictionary.w_dec.norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(codes.dense(), acts * norms / scale, atol=1e-5 / scale, rtol=1e-4)
    torch.testing.assert_close(decoded, reconstruction, atol=1e-5 / scale, rtol=1e-4)


def test_a_dictionary_of_differences_says_so(tmp_path: Path) -> None:
    settings = TrainConfig(architecture=KINDS["topk"], reads="difference")
    given = Normaliser("difference", torch.zeros(1, D_IN), 1.0)
    trainer = SAETrainer(settings, given, (2, D_IN), 20, TOKENS, 0, torch.device("cpu"))
    export(trainer, HOOK, ["base", "tuned"], {}, tmp_path / "a")
    dictionary = load_dictionary(tmp_path / "a")
    assert (dictionary.reads, dictionary.source) == ("difference", "base, tuned")


# What steps keep


def stepped(case: str, steps: int = 8) -> SAETrainer:
    trainer = trainer_of(case)
    as_if_trained(trainer.coder)
    trainer.silent[DEAD] = 10**9
    for step in range(steps):
        metrics = trainer.step(trainer.normaliser.mean + 3 * randn(TOKENS, CASES[case][1], D_IN, seed=step), step, World())
        assert math.isfinite(float(metrics["fvu"]))
    return trainer


@all_cases
def test_steps_keep_norms_and_dedicated_latents(case: str) -> None:
    trainer = stepped(case)
    coder, n_models = trainer.coder, CASES[case][1]
    before = as_if_trained(trainer_of(case).coder)
    moved = {name for name, value in coder.named_parameters() if not torch.equal(value, before.get_parameter(name))}
    assert moved == {name for name, _ in coder.named_parameters()}
    norms = coder.decoder.detach().norm(dim=1)
    if coder.config.decoder_norm == "unit":
        torch.testing.assert_close(norms, torch.ones(LATENTS), atol=1e-6, rtol=0)
    else:
        assert float((norms - 1).abs().max()) > 0.3
    for rows in (coder.encoder.detach(), coder.decoder.detach()):
        parts = rows.unflatten(1, (n_models, D_IN))
        used = (parts != 0).any(-1)
        expected = torch.ones(LATENTS, n_models, dtype=torch.bool)
        if "dedicated" in case:
            expected[:5, 1] = False
            expected[5:12, 0] = False
        assert torch.equal(used, expected)


@pytest.mark.parametrize("case", ["topk", "standard-pair", "topk-pair-dedicated", "topk-folded"])
def test_the_part_of_the_decoder_gradient_along_its_rows_is_taken_away(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ROWS_AT_A_TIME", 7)  # more than one part
    coder, _ = made(case)
    with torch.no_grad():
        coder.after_step()
    for parameter in (coder.encoder, coder.decoder):
        parameter.grad = randn(*parameter.shape, seed=3).double()
    coder.after_backward()
    gradient, before = coder.decoder.grad, randn(*coder.decoder.shape, seed=3).double()
    assert gradient is not None
    for foreign in coder._foreign(before):
        foreign.zero_()
    along = (gradient * coder.decoder).sum(1)
    if coder.config.decoder_norm == "folded":
        assert torch.equal(gradient, before)
        return
    torch.testing.assert_close(along, torch.zeros(LATENTS).double(), atol=1e-12, rtol=0)
    removed = before - gradient
    torch.testing.assert_close(removed, (removed * coder.decoder).sum(1, keepdim=True) * coder.decoder, atol=1e-12, rtol=0)
