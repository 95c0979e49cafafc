"""A base and an adapter on one set of weights read as two models opened apart, and neither shows in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.core.errors import ModelError
from interp.models.activations import capture
from interp.models.adapter_pair import open_pair
from interp.models.chats import Chat
from interp.models.cpu.packed_linear import _Packed
from interp.models.hook_points import SITES
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from tests.helpers.tiny import D_MODEL, QUESTIONS, ask_all, greedy, tiny_folder, tiny_network, written_ids

ANSWERS = ("Wait.", "Put it into hot water.", "", "Speak it every day with patient people.")
CHATS = [Chat.ask(question, answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
NAMES = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]

pytestmark = [pytest.mark.filterwarnings("ignore:fan_in_fan_out"), pytest.mark.filterwarnings("ignore:Found missing adapter keys")]


def adapter(folder: Path, family: str = "llama", fill: float = 0.3, **lora: Any) -> Path:
    """A saved LoRA adapter on all linear layers whose B is `fill` × noise; its modules to save and biases are moved too."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    wrapped = get_peft_model(tiny_network(family, 0), config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = fill * torch.randn_like(parameter)
        elif parameter.requires_grad and "lora_" not in name:
            parameter.data += fill * torch.randn_like(parameter)
    wrapped.save_pretrained(folder)
    return folder


def residuals(model: LanguageModel, rows: int = 3) -> list[torch.Tensor]:
    return [captured.residuals[name][captured.batch.mask] for captured in capture(model, CHATS, NAMES, rows) for name in NAMES]


def shared(pair: tuple[LanguageModel, LanguageModel]) -> bool:
    return pair[0].network is pair[1].network


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])  # plain, transposed and fused projections
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pair_reads_as_two_models_opened_apart(family: str, dtype: str, tmp_path: Path) -> None:
    folder, tuned = str(tiny_folder(tmp_path / "base", 0, family)), str(adapter(tmp_path / "adapter", family))
    apart = open_model(folder, None, "cpu", dtype), open_model(tuned, folder, "cpu", dtype)
    pair = open_pair(folder, tuned, "cpu", dtype)
    assert shared(pair)
    assert [model.source for model in pair] == [folder, tuned]
    for _turn in range(2):  # in turns, as live sources read
        for ours, theirs in zip(residuals(pair[0]), residuals(apart[0]), strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(residuals(pair[1]), residuals(apart[1]), strict=True):
            if dtype == "float32":
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
            else:  # merging rounds the weights, so that single entries of a random model may be far apart
                assert (ours - theirs).float().norm() < 0.04 * theirs.float().norm()
    assert max((a - b).abs().max() for a, b in zip(residuals(pair[0]), residuals(pair[1]), strict=True)) > 0.1
    if dtype == "float32":
        for ours, theirs in zip(pair[1].logprobs(CHATS), apart[1].logprobs(CHATS), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        for ours_model, theirs_model in zip(pair, apart, strict=True):
            assert written_ids(ours_model, ask_all(), greedy()) == written_ids(theirs_model, ask_all(), greedy())


def test_a_module_saved_whole_is_switched_too(tmp_path: Path) -> None:
    folder = str(tiny_folder(tmp_path / "base"))
    tuned = str(adapter(tmp_path / "adapter", modules_to_save=["lm_head"]))
    pair, apart = open_pair(folder, tuned, "cpu"), (open_model(folder, None, "cpu"), open_model(tuned, folder, "cpu"))
    assert shared(pair)
    for ours, theirs in zip(pair, apart, strict=True):
        for mine, other in zip(ours.logprobs(CHATS), theirs.logprobs(CHATS), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_trained_biases_open_two_models(tmp_path: Path) -> None:
    folder, tuned = str(tiny_folder(tmp_path / "base", 0, "gpt2")), str(adapter(tmp_path / "adapter", "gpt2", bias="all"))
    pair = open_pair(folder, tuned, "cpu")
    assert not shared(pair)
    plain = open_model(folder, None, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(residuals(pair[0]), residuals(plain), strict=True))


def test_two_full_models_are_opened_as_they_are_and_must_belong_together(tmp_path: Path) -> None:
    base, tuned = str(tiny_folder(tmp_path / "base", 0)), str(tiny_folder(tmp_path / "tuned", 1))
    pair = open_pair(base, tuned, "cpu")
    assert not shared(pair)
    assert all(torch.equal(a, b) for a, b in zip(residuals(pair[1]), residuals(open_model(tuned, None, "cpu")), strict=True))
    with pytest.raises(ModelError, match="do not match: residual width 32 and 64"):
        open_pair(base, str(tiny_folder(tmp_path / "wide", 1, d_model=64)), "cpu")


def test_an_adapter_that_changes_nothing_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    with pytest.raises(ModelError, match=r"adapter changes nothing in .*base"):
        open_pair(base, str(adapter(tmp_path / "adapter", fill=0.0)), "cpu")
    tuned = str(adapter(tmp_path / "other"))
    with pytest.raises(ModelError, match=r"does not fit .*Give the base it was trained on"):
        open_pair(str(tiny_folder(tmp_path / "deep", n_layers=2)), tuned, "cpu")
    with pytest.raises(ModelError, match="There is no folder"):
        open_pair(str(tmp_path / "nowhere"), tuned, "cpu")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[LanguageModel, LanguageModel]:
    return open_pair(str(tiny_folder(tmp_path / "base")), str(adapter(tmp_path / "adapter")), "cpu")


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_on_the_way_leaves_both_as_they_were(pair: tuple[LanguageModel, LanguageModel], failing: int) -> None:
    before = [residuals(model) for model in pair]

    def fail(_residual: torch.Tensor) -> None:
        raise ValueError("on the way")

    handle = pair[failing].attach("blocks.1.hook_resid_post", fail)
    with pytest.raises(ValueError, match="on the way"):
        residuals(pair[failing])
    states = {layer._disable_adapters for layer in pair[0].layers}  # type: ignore[attr-defined]
    assert states == {False}
    assert pair[0].positions is None
    assert pair[1].positions is None
    handle.remove()
    for model, expected in zip(pair, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(residuals(model), expected, strict=True))


@pytest.mark.parametrize("site", SITES)
def test_a_hook_on_one_does_not_act_on_the_other(pair: tuple[LanguageModel, LanguageModel], site: str) -> None:
    before = [residuals(model) for model in pair]
    handle = pair[1].attach(f"blocks.0.{site}", lambda residual: residual + 1.0)
    assert all(torch.equal(a, b) for a, b in zip(residuals(pair[0]), before[0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(residuals(pair[1]), before[1], strict=True))
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(residuals(pair[1]), before[1], strict=True))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch lacks oneDNN")
def test_the_shared_linear_layers_are_packed_once(pair: tuple[LanguageModel, LanguageModel]) -> None:
    linears = [module for module in pair[0].network.modules() if type(module) is torch.nn.Linear]
    assert all(isinstance(vars(layer)["forward"], _Packed) for layer in linears)
    residuals(pair[0])
    packed = [id(vars(layer)["forward"].weight) for layer in linears]
    residuals(pair[0])
    assert [id(vars(layer)["forward"].weight) for layer in linears] == packed  # switching does not pack anew


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_bridge_of_either_computes_its_residuals(pair: tuple[LanguageModel, LanguageModel], which: int) -> None:
    model = pair[which]
    (ids,) = {tuple(tokenised.ids) for tokenised in model.tokenise(CHATS[1:2])}
    expected = next(capture(model, CHATS[1:2], [NAMES[2]])).residuals[NAMES[2]]
    bridge = model.bridge()
    with torch.inference_mode():
        _logits, cache = bridge.run_with_cache(torch.tensor([ids]))
    torch.testing.assert_close(cache[NAMES[2]], expected, atol=1e-4, rtol=1e-4)
    assert expected.shape[-1] == D_MODEL
    assert len({layer._disable_adapters for layer in model.layers}) == 1  # type: ignore[attr-defined]
    assert torch.equal(next(capture(model, CHATS[1:2], [NAMES[2]])).residuals[NAMES[2]], expected)
