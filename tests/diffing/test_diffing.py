"""One pass over both models' answers: sums against dense matrices and one chat at a time; interrupted, refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import ActivationError, ArtifactError, DictionaryError
from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.sae import SAE
from interp.diffing import pairings
from interp.diffing.moments import PAIRINGS, Diff, load_diff
from interp.diffing.pairings import STATE, Answers, collect
from interp.models.activations import Captured
from interp.models.chats import Chat
from tests.helpers.diffing_truth import (
    ANSWERS,
    HOOK,
    LATENTS,
    as_answers,
    dense_codes,
    dense_joint_codes,
    dense_read,
    random_crosscoder,
    random_dictionary,
    texts,
)
from tests.helpers.tiny import D_MODEL, QUESTIONS, tiny_model

MODELS = tiny_model(0), tiny_model(1)
WRITTEN = {"base": as_answers(texts()), "tuned": as_answers(texts(3))}


def collected(dictionary: SAE | Crosscoder, **options: Any) -> Diff:
    return collect(*MODELS, dictionary, WRITTEN, **options)


def lstsq(f: torch.Tensor, row: torch.Tensor, y: torch.Tensor) -> float:
    """The β that brings f_t β d nearest to y_t, by the library."""
    return float(torch.linalg.lstsq((f[:, None] * row).reshape(-1, 1).double(), y.reshape(-1, 1).double()).solution)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_sums_equal_a_dense_computation(architecture: str) -> None:
    dictionary = random_dictionary(architecture=architecture)
    seen: list[int] = []
    diff = collected(dictionary, rows=4, progress=seen.append)
    assert sum(seen) == 2 * (9 + 9)
    for writer, first in (("base", 0), ("tuned", 3)):
        reads = [dense_read(seed, texts(first)) for seed in (0, 1)]
        acts = [dense_codes(dictionary, read["x"]).double() for read in reads]
        owner, part = reads[0]["owner"], reads[0]["part"]
        response = part > 0
        for phase, chosen in (("prompt", part == 0), ("prompt_end", part == 1), ("response", response)):
            for own, dense in zip(diff.pairing(f"{writer}_text"), acts, strict=True):
                assert own.n_tokens(phase) == int(chosen.sum())
                means = torch.stack([dense[chosen & (owner == q)].mean(0) for q in range(3)])
                torch.testing.assert_close(own.question_means(phase), means, atol=2e-4, rtol=1e-3)
                torch.testing.assert_close(own.mean(phase), dense[chosen].mean(0), atol=2e-4, rtol=1e-3)
                torch.testing.assert_close(own.variance(phase), dense[chosen].var(0, correction=0), atol=2e-3, rtol=1e-3)
                torch.testing.assert_close(own.rate(phase), (dense[chosen] > 0).double().mean(0), atol=1e-3, rtol=0)
                torch.testing.assert_close(own.peak(phase), dense[chosen].amax(0).float(), atol=2e-4, rtol=1e-3)
        cross = (acts[0] * acts[1])[response].sum(0)
        torch.testing.assert_close(diff.texts[writer].cross[1:].sum(0), cross, atol=2e-2, rtol=1e-3)
        betas, correlations = diff.beta(f"{writer}_text"), diff.correlation(f"{writer}_text")
        fires = acts[1][response].amax(0) > 0.1
        assert int(fires.sum()) > LATENTS / 4
        for latent in fires.nonzero()[:, 0].tolist():
            f, row = acts[1][response, latent], dictionary.w_dec[latent]
            for model, read in enumerate(reads):
                error = read["x"] - acts[model].float() @ dictionary.w_dec - dictionary.b_dec
                left = (error + acts[model][:, latent, None].float() * row)[response]
                assert float(betas[model, latent]) == pytest.approx(lstsq(f, row, left), abs=2e-3)
            if float(acts[0][response, latent].amax()) > 0.1:
                expected = float(torch.corrcoef(torch.stack([side[response, latent] for side in acts]))[0, 1])
                assert float(correlations[latent]) == pytest.approx(expected, abs=2e-3)
    assert torch.equal(diff.pairing("on_policy")[0].sums, diff.pairing("base_text")[0].sums)
    assert torch.equal(diff.pairing("on_policy")[1].sums, diff.pairing("tuned_text")[1].sums)


def made_residuals(monkeypatch: pytest.MonkeyPatch, make: Callable[[int, int], torch.Tensor]) -> None:
    """What model `seed` (by its place among the readers) has at a batch's tokens, in place of reading."""
    calls = iter(range(10_000))

    def read(model: Any, batch: Any, points: list[str], rows: Any) -> Captured:
        residuals = make(next(calls) % 2, batch.ids.numel()).view(*batch.ids.shape, D_MODEL)
        return Captured(list(rows), batch, {points[0]: residuals}, torch.zeros_like(batch.mask))

    monkeypatch.setattr(pairings, "capture_batch", read)


def test_latent_scaling_tells_a_new_latent_from_one_that_sparsity_hid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent 5 is in the tuned model alone; 7 is in both, but in the base others leave it no place among the k."""
    rows = torch.eye(D_MODEL)
    dictionary = SAE(rows.clone(), torch.zeros(D_MODEL), rows, torch.zeros(D_MODEL), "topk", 2, None, False, HOOK)
    generator = torch.Generator().manual_seed(0)

    def make(model: int, tokens: int) -> torch.Tensor:
        x = torch.zeros(tokens, D_MODEL)
        x[:, 7] = 2 + torch.rand(tokens, generator=generator)
        x[:, [1, 2] if model == 0 else [5]] = 4 + torch.rand(tokens, 1, generator=generator)
        return x

    made_residuals(monkeypatch, make)
    diff = collected(dictionary)
    base, tuned = diff.pairing("tuned_text")
    assert float(base.rate()[5]) == float(base.rate()[7]) == 0  # the rise alone says that both are new
    assert float(tuned.rate()[5]) == float(tuned.rate()[7]) == 1
    beta = diff.beta()
    assert beta[:, 5].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert beta[:, 7].tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    assert bool(beta[:, 9].isnan().all())


def test_one_model_read_twice_differs_in_nothing() -> None:
    diff = collect(tiny_model(0), tiny_model(0), random_dictionary(), {"base": WRITTEN["base"], "tuned": WRITTEN["base"]})
    for name in PAIRINGS:
        base, tuned = diff.pairing(name)
        assert all(torch.equal(mine, vars(tuned)[field]) for field, mine in vars(base).items())
    base, tuned = diff.pairing("base_text")
    alive = tuned.rate() > 0
    beta = diff.beta()
    assert torch.equal(beta[0, alive], beta[1, alive])
    torch.testing.assert_close(diff.correlation()[alive], torch.ones_like(beta[0, alive]))


CHATS = [Chat.ask(QUESTIONS[i % 4], ANSWERS[i % 6]) for i in range(9)]
OWNERS = [0, 1, 2, 3, 0, 1, 2, 3, 1]


def test_many_questions_fold_into_few_clusters() -> None:
    plain, folded = collected(random_dictionary()), collected(random_dictionary(), max_clusters=2)
    for one, other in zip(plain.pairing("on_policy"), folded.pairing("on_policy"), strict=True):
        torch.testing.assert_close(other.sums, torch.stack([one.sums[:, [0, 2]].sum(1), one.sums[:, 1]], dim=1))
        assert torch.equal(other.tokens, torch.stack([one.tokens[:, [0, 2]].sum(1), one.tokens[:, 1]], dim=1))


@pytest.mark.parametrize("stop", [3, 6, 11])
def test_an_interrupted_diff_goes_on_and_ends_with_the_same_bytes(stop: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rows": 4, "every": 2}
    collected(random_dictionary(), folder=tmp_path / "whole", **options)
    seen: list[int] = []

    def kill(chats: int) -> None:
        seen.append(chats)
        if len(seen) == stop:
            raise KeyboardInterrupt

    blocks = 2 * 3
    if stop <= blocks:
        with pytest.raises(KeyboardInterrupt):
            collected(random_dictionary(), folder=tmp_path / "cut", progress=kill, **options)
    left: list[int] = []
    diff = collected(random_dictionary(), folder=tmp_path / "cut", progress=left.append, **options)
    assert sum(left) == 2 * (9 + 9)
    assert len(left) == (1 + blocks - stop // 2 * 2 if stop <= blocks else blocks)  # what was read before counts at once
    assert (tmp_path / "cut" / STATE).read_bytes() == (tmp_path / "whole" / STATE).read_bytes()
    found: list[int] = []
    again = collected(random_dictionary(), folder=tmp_path / "cut", progress=found.append, **options)
    assert found == [36]  # nothing is read again
    torch.testing.assert_close(again.beta(), diff.beta(), atol=0, rtol=0, equal_nan=True)
    assert torch.equal(again.texts["tuned"].sums, diff.texts["tuned"].sums)


def test_the_state_of_another_diff_is_refused(tmp_path: Path) -> None:
    collected(random_dictionary(), folder=tmp_path)
    for other in ({"identity": "an edit"}, {"rows": 3}, {"pairings": ["on_policy"]}, {"max_clusters": 2}):
        with pytest.raises(ArtifactError, match="another diff"):
            collected(random_dictionary(), folder=tmp_path, **other)
    with pytest.raises(ArtifactError, match="another diff"):
        collected(random_dictionary(1), folder=tmp_path)
    (tmp_path / STATE).write_bytes(b"\x00" * 100)
    with pytest.raises(ArtifactError, match="holds no diff"):
        collected(random_dictionary(), folder=tmp_path)
    with pytest.raises(ArtifactError, match="Cannot write"):
        collected(random_dictionary(), folder=tmp_path / STATE / "below a file")


def test_a_saved_diff_comes_back(tmp_path: Path) -> None:
    diff = collected(random_dictionary())
    diff.save(tmp_path / "moments.safetensors", note="here")
    loaded, words = load_diff(tmp_path / "moments.safetensors")
    assert words == {"note": "here"}
    assert loaded.pairings == PAIRINGS
    for writer in ("base", "tuned"):
        assert all(torch.equal(vars(loaded.texts[writer])[field], tensor) for field, tensor in vars(diff.texts[writer]).items())
    assert torch.equal(loaded.overlap, diff.overlap)


def test_only_what_the_pairings_ask_for_is_read() -> None:
    read: dict[str, int] = {}
    for names in (["on_policy"], ["base_text"], ["tuned_text", "on_policy"]):
        seen: list[int] = []
        diff = collected(random_dictionary(), pairings=names, progress=seen.append)
        read[",".join(names)] = sum(seen)
        with pytest.raises(ActivationError, match="was not read"):
            diff.pairing(next(name for name in PAIRINGS if name not in names))
    assert read == {"on_policy": 18, "base_text": 18, "tuned_text,on_policy": 27}
    whole = collected(random_dictionary())
    assert torch.equal(diff.pairing("on_policy")[0].sums, whole.pairing("on_policy")[0].sums)


def test_wrong_use_says_what_to_do() -> None:
    dictionary = random_dictionary()
    with pytest.raises(ActivationError, match="need answers of the tuned model"):
        collect(*MODELS, dictionary, {"base": WRITTEN["base"]})
    with pytest.raises(ActivationError, match="no pairing 'same_text'"):
        collected(dictionary, pairings=["same_text"])
    with pytest.raises(DictionaryError, match="tuned minus base"):
        collected(replace(dictionary, reads="difference"))
    with pytest.raises(ActivationError, match="same text"):
        collected(dictionary).beta("on_policy")
    short = {name: Answers([Chat.ask("Why?", "So."), Chat.ask("Why?", "So.")], [0, 2]) for name in ("base", "tuned")}
    with pytest.raises(ActivationError, match="no response token"):
        collect(*MODELS, dictionary, short).pairing("on_policy")[0].question_means()


def test_a_crosscoder_is_read_on_the_pair() -> None:
    cross = random_crosscoder()
    w_dec = cross.w_dec
    diff = collected(cross, rows=4)
    for writer, first in (("base", 0), ("tuned", 3)):  # both models read what each wrote, and have one code for it
        reads = [dense_read(seed, texts(first)) for seed in (0, 1)]
        joint = dense_joint_codes(cross, *(read["x"] for read in reads))
        owner, response = reads[0]["owner"], reads[0]["part"] > 0
        means = torch.stack([joint[response & (owner == q)].double().mean(0) for q in range(3)])
        for own in (*diff.pairing(f"{writer}_text"), diff.pairing("on_policy")[writer == "tuned"]):
            torch.testing.assert_close(own.mean(), joint[response].double().mean(0), atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(own.question_means(), means, atol=1e-3, rtol=1e-3)
    beta = diff.beta()
    for latent in (joint[response].amax(0) > 0.5).nonzero()[:10, 0].tolist():
        f, row = joint[response, latent], w_dec[latent, 1]
        for model, read in enumerate(reads):
            left = read["x"] - joint @ w_dec[:, model] + joint[:, latent, None] * w_dec[latent, model]
            assert float(beta[model, latent]) == pytest.approx(lstsq(f, row, left[response]), abs=5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same_and_repeats_to_the_byte() -> None:
    def on(device: str) -> Diff:
        models, dictionary = [tiny_model(0), tiny_model(1)], random_dictionary()
        for model in models:
            model.network.to(device)
        moved = {name: getattr(dictionary, name).to(device) for name in ("w_enc", "b_enc", "w_dec", "b_dec")}
        return collect(*models, replace(dictionary, **moved), WRITTEN)

    cpu, one, other = on("cpu"), on("cuda"), on("cuda")
    for writer in ("base", "tuned"):
        for field, tensor in vars(one.texts[writer]).items():
            assert tensor.is_cuda
            assert torch.equal(tensor, vars(other.texts[writer])[field])
            torch.testing.assert_close(tensor.cpu().double(), vars(cpu.texts[writer])[field].double(), atol=5e-2, rtol=1e-2, msg=field)
