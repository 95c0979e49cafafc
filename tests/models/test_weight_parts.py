"""Parts of a fine-tune alone and left out are models built by hand with those tensors, and nothing stays of an exchange."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import ModelError
from interp.models.adapter_pair import open_pair
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from interp.models.weight_parts import WeightPart, exchanged, layer_groups, weight_parts, whole_kinds
from tests.helpers.tiny import FAMILIES, logits, tiny_folder, tiny_model, tiny_network, tiny_tokenizer
from tests.helpers.tiny_families import NETWORKS, made
from tests.helpers.tiny_mixtures import MIXTURES, mixture
from tests.models.test_models import adapter

NAMES = {
    "llama": ("model.layers.1.mlp.", "model.layers.1.self_attn."),
    "gpt2": ("transformer.h.1.mlp.", "transformer.h.1.attn."),
    "gpt_neox": ("gpt_neox.layers.1.mlp.", "gpt_neox.layers.1.attention."),
    "qwen3": ("model.layers.1.mlp.", "model.layers.1.self_attn."),
    "gemma3": ("model.layers.1.mlp.", "model.layers.1.self_attn."),
}
"""What the names of MLP and attention of layer 1 begin with."""

EVERYDAY = ("qwen3_5_moe_text", "jamba", "zamba2", "nemotron_h", "gpt_oss")


def part(parts: list[WeightPart], name: str) -> WeightPart:
    (found,) = [one for one in parts if str(one) == name]
    return found


def by_hand(network: Any, other: Any, beginning: str) -> torch.Tensor:
    """Logits of a plain copy of `network` with the tensors of `other` whose names begin so."""
    made_by_hand, theirs = copy.deepcopy(network), dict(other.named_parameters())
    for name, parameter in made_by_hand.named_parameters():
        if name.startswith(beginning):
            parameter.data = theirs[name].data.clone()
    return logits(made_by_hand)


def bytes_of(model: LanguageModel) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.network.state_dict().items()}


def fine_tuned(model: LanguageModel, changed: str) -> LanguageModel:
    """The model with noise on the tensors whose names contain `changed`."""
    network, generator = copy.deepcopy(model.plain_copy()), torch.Generator().manual_seed(5)
    for name, parameter in network.named_parameters():
        if changed in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return LanguageModel(network, tiny_tokenizer(), "tuned")


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_and_left_out_are_the_models_built_by_hand(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASCOPE_CPU_FAST_PATHS", "0")  # the very arithmetic of transformers
    base, tuned = tiny_model(0, family), tiny_model(1, family)
    plain = tiny_network(family, 0), tiny_network(family, 1)
    parts = weight_parts(base, tuned)
    for name, beginning in zip(("MLP, layer 1", "attention, layer 1"), NAMES[family], strict=True):
        with exchanged(base, tuned, part(parts, name)):
            assert torch.equal(logits(base.network), by_hand(*plain, beginning))
            assert torch.equal(logits(tuned.network), by_hand(*plain[::-1], beginning))
        assert torch.equal(logits(base.network), logits(plain[0]))
        assert torch.equal(logits(tuned.network), logits(plain[1]))
    everything = {name for one in parts for name in one.tensors}
    assert everything == set(base.network.state_dict())
    assert sum(len(one.tensors) for one in parts) == len(everything)


def test_fast_paths_see_the_exchange() -> None:
    base, tuned = tiny_model(0), tiny_model(1)
    before = logits(base.network), logits(tuned.network)
    with exchanged(base, tuned, part(weight_parts(base, tuned), "MLP, layer 1")):
        alone, left_out = logits(base.network), logits(tuned.network)
    plain = tiny_network("llama", 0), tiny_network("llama", 1)
    torch.testing.assert_close(alone, by_hand(*plain, NAMES["llama"][0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left_out, by_hand(*plain[::-1], NAMES["llama"][0]), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(base.network), before[0])
    assert torch.equal(logits(tuned.network), before[1])
    assert not torch.equal(alone, before[0])


def test_all_parts_together_exchange_the_models_and_an_exception_restores_them() -> None:
    base, tuned = tiny_model(0), tiny_model(1)
    before, parts = (bytes_of(base), bytes_of(tuned)), weight_parts(base, tuned, 2)
    whole = WeightPart("all", None, tuple(name for one in parts for name in one.tensors), 0.0)
    seen = []

    def interrupted() -> None:
        with exchanged(base, tuned, whole):
            seen.append((bytes_of(tuned), bytes_of(base)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == [before]
    assert (bytes_of(base), bytes_of(tuned)) == before
    with pytest.raises(AttributeError), exchanged(base, tuned, WeightPart("wrong", None, (*whole.tensors, "model.none.weight"), 0.0)):
        pass
    assert (bytes_of(base), bytes_of(tuned)) == before


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_has_the_change_that_peft_computes(family: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base", 0, family)
    merged = adapter(tmp_path / "adapter", family, base=str(folder))
    base, tuned = open_model(str(folder), device="cpu"), open_model(str(tmp_path / "adapter"), str(folder), device="cpu")
    parts = weight_parts(base, tuned)
    assert {one.kind for one in parts if one.squared_change} == {"attention", "MLP"}
    changed, ours = part(parts, "MLP, layer 1"), base.network.state_dict()
    by_peft = sum(float((merged[name] - ours[name]).double().square().sum()) for name in changed.tensors if name in merged)
    assert changed.squared_change == pytest.approx(by_peft, rel=1e-5)
    with pytest.raises(ModelError, match="share one set of weights"):
        weight_parts(*open_pair(str(folder), str(tmp_path / "adapter"), "cpu"))


@pytest.mark.parametrize("name", [name for name in NETWORKS if "tied" in name])
def test_tied_embeddings_are_one_part(name: str) -> None:
    base = made(name)
    tuned = fine_tuned(base, "")
    (tied,) = [one for one in weight_parts(base, tuned) if "embedding" in one.kind]
    assert tied.kind == "embedding and unembedding"
    weight = base.network.get_input_embeddings().weight
    change = tuned.network.get_input_embeddings().weight - weight
    assert tied.squared_change == pytest.approx(float(change.detach().double().square().sum()))
    before = bytes_of(base)
    with exchanged(base, tuned, tied):
        assert base.network.get_input_embeddings().weight is base.network.get_output_embeddings().weight
        assert tuned.network.get_input_embeddings().weight is weight
    assert bytes_of(base) == before


def test_what_one_model_ties_alone_is_exchanged_whole() -> None:
    base = made("llama, tied")
    tuned = fine_tuned(base, "")
    head = tuned.network.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach() + 1.0)
    expected = logits(base.network), logits(tuned.network)
    (tied,) = [one for one in weight_parts(base, tuned) if "embedding" in one.kind]
    with exchanged(base, tuned, tied):
        assert base.network.lm_head.weight is not base.network.model.embed_tokens.weight
        assert tuned.network.lm_head.weight is tuned.network.model.embed_tokens.weight
    assert torch.equal(logits(base.network), expected[0])
    assert torch.equal(logits(tuned.network), expected[1])


@pytest.mark.parametrize(
    ("changed", "kinds"), [("norm", {"norms", "final norm"}), ("embed_tokens", {"embedding"}), ("v_proj", {"attention"})]
)
def test_only_what_changed_has_a_change(changed: str, kinds: set[str]) -> None:
    base = tiny_model(0)
    parts = weight_parts(base, fine_tuned(base, changed))
    assert {one.kind for one in parts if one.squared_change} == kinds


@pytest.mark.parametrize("family", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in MIXTURES])
def test_every_tensor_of_a_mixture_has_a_place(family: str) -> None:
    base, tuned = mixture(family), mixture(family, seed=3)
    parts = weight_parts(base, tuned)
    assert sorted(name for one in parts for name in one.tensors) == sorted(base.network.state_dict())
    known = {"attention", "MLP", "experts", "norms", "recurrence", "embedding", "unembedding", "final norm", "embedding and unembedding"}
    assert {one.kind for one in parts} - known <= {"linear"}  # of zamba2
    with exchanged(base, tuned, parts[0]):
        pass


def test_models_that_cannot_be_compared_are_refused() -> None:
    base = tiny_model(0)
    with pytest.raises(ModelError, match="changed nothing"):
        weight_parts(base, tiny_model(0))
    with pytest.raises(ModelError, match=r"do not have the same weights: model\.layers\.0\.mlp\.down_proj\.bias"):
        weight_parts(made("llama"), made("llama, biases"))
    with pytest.raises(ModelError, match="has another shape"):
        weight_parts(base, tiny_model(0, d_model=64))


def test_layers_are_grouped_and_kinds_summed() -> None:
    assert [layer_groups(n) for n in (3, 8, 9, 30, 80)] == [1, 1, 2, 4, 10]
    base, tuned = tiny_model(0, n_layers=5), tiny_model(1, n_layers=5)
    mlp = [one for one in weight_parts(base, tuned, 2) if one.kind == "MLP"]
    assert [str(one) for one in mlp] == ["MLP, layers 0–1", "MLP, layers 2–3", "MLP, layer 4"]
    single = [one for one in weight_parts(base, tuned, 1) if one.kind == "MLP"]
    assert sum(one.squared_change for one in mlp) == pytest.approx(sum(one.squared_change for one in single))
    assert whole_kinds(mlp) == []  # the only kind: all of it is the tuned model itself
    wholes = whole_kinds(weight_parts(base, tuned, 2))
    assert [str(one) for one in wholes] == ["attention, all layers", "MLP, all layers", "norms, all layers"]
    assert set(wholes[1].tensors) == {name for one in mlp for name in one.tensors}
