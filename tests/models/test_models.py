"""Models open from folders, adapters and GGUF as what they are, or are refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.core.errors import ModelError, PersonascopeError
from interp.models.embedded import EMBEDDED_MODELS
from interp.models.language_model import LanguageModel, check_pair
from interp.models.sources import choose_device, choose_dtype, model_identity, model_shape, open_model
from tests.helpers.tiny import CHATS, D_MODEL, FAMILIES, IDS, N_LAYERS, logits, tiny_folder, tiny_model, tiny_network

pytestmark = [pytest.mark.filterwarnings("ignore:fan_in_fan_out"), pytest.mark.filterwarnings("ignore:Found missing adapter keys")]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERSONASCOPE_CACHE", str(tmp_path / "cache"))


def opened(source: Path | str, base: Path | str | None = None, dtype: str = "auto") -> LanguageModel:
    return open_model(str(source), base and str(base), "cpu", dtype)


def adapter(folder: Path, family: str = "llama", fill: float = 0.3, base: str | None = None, **lora: Any) -> dict[str, torch.Tensor]:
    """Save a LoRA adapter whose B is `fill` × noise; returns W + BA · alpha / r for every weight that it changes, by hand."""
    network = tiny_network(family, 0)
    torch.manual_seed(1)
    wrapped = get_peft_model(network, LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **lora))
    wrapped.peft_config["default"].base_model_name_or_path = base
    merged = {}
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            module.lora_B["default"].weight.data = fill * torch.randn_like(module.lora_B["default"].weight)
            change = 3.0 * module.lora_B["default"].weight.data @ module.lora_A["default"].weight.data
            merged[f"{name}.weight"] = module.base_layer.weight.data + (change.T if family == "gpt2" else change)
    wrapped.save_pretrained(folder)
    return merged


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_opens_as_the_model_that_was_saved(family: str, tmp_path: Path) -> None:
    model = opened(tiny_folder(tmp_path / "model", 7, family))
    assert (model.d_model, model.n_layers, model.dtype, model.device.type) == (D_MODEL, N_LAYERS, torch.float32, "cpu")
    assert model.source == str(tmp_path / "model")
    assert not model.network.training
    torch.testing.assert_close(logits(model.network), logits(tiny_network(family, 7)), atol=1e-4, rtol=1e-4)
    assert [t.ids for t in model.tokenise(CHATS)] == [t.ids for t in tiny_model().tokenise(CHATS)]
    assert (model.pad_id, model.stop_ids) == (0, [3])
    assert model_shape(str(tmp_path / "model")) == (D_MODEL, N_LAYERS)
    assert opened(tmp_path / "model", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])  # plain, transposed and fused projections
def test_an_adapter_is_merged_as_by_hand(family: str, tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", 0, family)
    merged = adapter(tmp_path / "named", family, base=str(base))
    adapter(tmp_path / "unnamed", family)
    by_hand = tiny_network(family, 0)
    assert len(merged) == N_LAYERS * {"llama": 7, "gpt2": 4, "gpt_neox": 4}[family]
    by_hand.load_state_dict(by_hand.state_dict() | merged)
    for model in (opened(tmp_path / "named"), opened(tmp_path / "unnamed", base=base)):
        torch.testing.assert_close(logits(model.network), logits(by_hand), atol=1e-4, rtol=1e-4)
        assert (logits(model.network) - logits(tiny_network(family, 0))).abs().max() > 0.1
        assert set(model.network.state_dict()) == set(by_hand.state_dict())  # no trace of peft
        check_pair(opened(base), model)
    torch.testing.assert_close(logits(opened(base).network), logits(tiny_network(family, 0)), atol=1e-4, rtol=1e-4)


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    adapter(tmp_path / "adapter", fill=0.0)
    with pytest.raises(ModelError, match=r"changes nothing in .*base"):
        opened(tmp_path / "adapter", base=base)


def test_an_adapter_without_weights_is_refused(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: adapter_model\.safetensors is missing"):
        opened(tmp_path / "adapter", base=base)


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"names no base model. Give it with --base"):
        opened(tmp_path / "adapter")
    with pytest.raises(ModelError, match="There is no folder /no/base"):
        opened(tmp_path / "adapter", base="/no/base")


@pytest.mark.parametrize(
    ("family", "shape"), [("llama", {"d_model": 64}), ("llama", {"n_layers": 4}), ("llama", {"n_layers": 2}), ("gpt2", {})]
)
def test_an_adapter_of_another_base_is_refused(family: str, shape: dict[str, int], tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    base = tiny_folder(tmp_path / "base", 0, family, **shape)
    with pytest.raises(ModelError, match=r"does not fit .*Give the base it was trained on"):
        opened(tmp_path / "adapter", base=base)


def truncated(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50])


def reconfigured(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated("model.safetensors"), "Cannot open the model .*safetensors"),
        (truncated("config.json"), "Cannot open the model .*not a valid JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "Cannot open the model .*no file named model.safetensors"),
        (lambda folder: [path.unlink() for path in folder.glob("tok*")], "holds no tokenizer"),
        (reconfigured(hidden_size=64), "Cannot open the model"),
        (reconfigured(num_hidden_layers=4), "lacks 9 weights"),  # transformers alone would fill in random ones
        (reconfigured(model_type="no-such-type"), "no-such-type"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither config.json nor exactly one .gguf file"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    damage(tiny_folder(tmp_path / "model"))
    with pytest.raises(ModelError, match=message):
        opened(tmp_path / "model")


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    base, folder = tiny_folder(tmp_path / "base"), tmp_path / "adapter"
    adapter(folder)
    for damage in (
        truncated("adapter_model.safetensors"),
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        lambda folder: (folder / "adapter_config.json").write_text("{"),
    ):
        damage(folder)
        with pytest.raises(PersonascopeError, match="adapter"):
            opened(folder, base=base)


@pytest.mark.parametrize(
    "source", ["/no/such/folder", "no-such-owner/no-such-model", "what is this?", "embedded:nothing", "/no/such.gguf", "~/no/such/folder"]
)
def test_a_model_that_is_not_there_is_refused_offline(source: str) -> None:
    with pytest.raises(ModelError, match=r"Cannot open the model|There is no"):
        opened(source)


def test_devices_and_dtypes_are_checked_before_anything_is_read() -> None:
    with pytest.raises(ModelError, match="'tpu9' is not a device"):
        open_model("/no/such/folder", device="tpu9")
    with pytest.raises(ModelError, match="'int3' is not a dtype"):
        opened("/no/such/folder", dtype="int3")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="No CUDA device"):
            choose_device("cuda")


def test_the_identity_follows_the_files_contents(tmp_path: Path) -> None:
    first = model_identity(str(tiny_folder(tmp_path / "one", 0)))
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert model_identity(str(tmp_path / "copy")) == first == model_identity(str(tmp_path / "one"))
    assert model_identity(str(tiny_folder(tmp_path / "two", 1))) != first
    (tmp_path / "copy" / "generation_config.json").write_text("{}")
    assert model_identity(str(tmp_path / "copy")) != first
    assert model_identity("embedded:smollm2") == EMBEDDED_MODELS["embedded:smollm2"].sha256
    with pytest.raises(ModelError):
        model_identity("no-such-owner/no-such-model")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_computes_the_same_logits_and_leaves_the_model_whole(family: str, tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", 5, family)
    adapter(tmp_path / "adapter", family, base=str(base))
    for source in (base, tmp_path / "adapter"):
        model = opened(source)
        expected = logits(model.network)
        bridge = model.bridge()
        with torch.inference_mode():
            torch.testing.assert_close(bridge(IDS), expected, atol=1e-4, rtol=1e-4)
            _logits, cache = bridge.run_with_cache(IDS)
        assert cache["blocks.1.hook_resid_post"].shape == (1, IDS.shape[1], D_MODEL)
        assert torch.equal(logits(model.network), expected)
        model.network.save_pretrained(tmp_path / f"again-{source.name}")
        model.tokenizer.save_pretrained(tmp_path / f"again-{source.name}")
        again = opened(tmp_path / f"again-{source.name}")
        assert isinstance(again, LanguageModel)
        assert torch.equal(logits(again.network), expected)
