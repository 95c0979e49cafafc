"""Adapters of all kinds: merged as peft merges them, or refused with the true cause; their base, revision and steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import Qwen2Config, Qwen2ForCausalLM

from interp.core.errors import ConfigError, ModelError, ModelWarning
from interp.models.adapter_pair import open_pair
from interp.models.sources import checkpoints, model_identity, open_model
from interp.studies.evaluating import _subjects
from interp.studies.evaluation_config import EvaluateConfig
from tests.helpers.small_hub import small_hub
from tests.helpers.tiny import CHATS, logits, tiny_folder, tiny_network, tiny_tokenizer
from tests.helpers.tiny_families import GROUPED
from tests.models.test_models import adapter

pytestmark = pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Found missing adapter keys")
PROMPTS = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
UNMERGEABLE = {
    "PROMPT_TUNING": lambda: PromptTuningConfig(**PROMPTS),
    "PREFIX_TUNING": lambda: PrefixTuningConfig(**PROMPTS),
    "P_TUNING": lambda: PromptEncoderConfig(**PROMPTS, encoder_hidden_size=16),
    "MULTITASK_PROMPT_TUNING": lambda: MultitaskPromptTuningConfig(**PROMPTS, num_tasks=2),
    "ADAPTION_PROMPT": lambda: AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2),
}


def openings(folder: Path, base: Path) -> list[Any]:
    """Both ways to open an adapter."""
    return [lambda: open_model(str(folder), str(base), "cpu"), lambda: open_pair(str(base), str(folder), "cpu")]


@pytest.mark.parametrize("kind", UNMERGEABLE)
def test_an_adapter_that_changes_no_weights_is_refused(kind: str, tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    get_peft_model(tiny_network("llama"), UNMERGEABLE[kind]()).save_pretrained(tmp_path / "adapter")
    for opening in openings(tmp_path / "adapter", base):
        with pytest.raises(ModelError, match=rf"is of the type {kind}, which changes no weights: it cannot be merged"):
            opening()


def test_an_activated_lora_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    adapter(tmp_path / "adapter", alora_invocation_tokens=[5, 6])
    for opening in openings(tmp_path / "adapter", base):
        with pytest.raises(ModelError, match="is an activated LoRA, which acts only after its invocation tokens"):
            opening()


def biased_lora(folder: Path, network: Any, targets: list[str]) -> None:
    """A trained LoRA whose second factor has a bias."""
    torch.manual_seed(1)
    wrapped = get_peft_model(network, LoraConfig(r=2, target_modules=targets, lora_bias=True, task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    wrapped.save_pretrained(folder)


def test_a_lora_with_a_bias_is_that_of_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Qwen2ForCausalLM(Qwen2Config(**GROUPED)).eval()
    network.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    plain = logits(network)
    biased_lora(tmp_path / "adapter", network, ["q_proj", "v_proj"])
    network = Qwen2ForCausalLM.from_pretrained(tmp_path / "base").eval()
    expected = logits(PeftModel.from_pretrained(network, tmp_path / "adapter").eval())
    assert (expected - plain).abs().max() > 0.1
    base, tuned = open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"), "cpu")
    alone = open_model(str(tmp_path / "adapter"), str(tmp_path / "base"), "cpu")
    (own, shared, merged) = (model.logprobs(CHATS)[1] for model in (base, tuned, alone))
    torch.testing.assert_close(logits(alone.network), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shared, merged, atol=1e-4, rtol=1e-4)
    assert (own - shared).abs().max() > 0.01


def test_a_bias_without_a_place_is_the_cause_that_is_named(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    biased_lora(tmp_path / "adapter", tiny_network("llama"), ["q_proj"])
    with pytest.raises(ModelError, match=r"cannot be merged into .*lora_bias=True.*no bias"):
        open_model(str(tmp_path / "adapter"), str(base), "cpu")
    expected = PeftModel.from_pretrained(tiny_network("llama"), tmp_path / "adapter").eval()
    _base, tuned = open_pair(str(base), str(tmp_path / "adapter"), "cpu")  # shares weights, so nothing has to be merged
    (chat,) = tuned.tokenise(CHATS[1:2])
    by_peft = logits(expected, torch.tensor([chat.ids]))[0].log_softmax(-1)
    by_hand = torch.stack([by_peft[i - 1, chat.ids[i]] for i in range(chat.n_prompt, len(chat.ids))])
    torch.testing.assert_close(tuned.logprobs([chat])[0], by_hand, atol=1e-4, rtol=1e-4)


def test_a_config_left_over_in_a_whole_model_is_named(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    adapter(tmp_path / "adapter", base=str(base))
    whole = tiny_folder(tmp_path / "whole", 3)
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", whole)
    with pytest.raises(ModelError, match=r"holds a whole model, and an adapter_config\.json without its adapter\. Delete"):
        open_model(str(whole), device="cpu")
    (whole / "adapter_config.json").unlink()
    assert torch.equal(logits(open_model(str(whole), device="cpu").network), logits(tiny_network("llama", 3)))


@pytest.mark.parametrize(("named", "warned"), [("owner/other", True), ("{other}", True), ("owner/base", False), ("/gone/x", False)])
def test_another_base_than_the_adapter_names_is_said(named: str, warned: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    base, other = tiny_folder(tmp_path / "base"), tiny_folder(tmp_path / "other", 1)
    adapter(tmp_path / "adapter", base=named.format(other=other))
    for opening in openings(tmp_path / "adapter", base):
        recwarn.clear()
        opening()
        said = [str(warning.message) for warning in recwarn if warning.category is ModelWarning]
        assert said == [f"The adapter {tmp_path / 'adapter'} was trained on {named.format(other=other)}, and is put on {base}."] * warned


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_models_and_adapters_of_the_hub_open_at_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.small_hub import Repository

    with small_hub(tmp_path / "cache", monkeypatch) as hub:
        bases = [tiny_folder(tmp_path / f"base{seed}", seed) for seed in (0, 1)]
        model = hub.repositories["owner/base"] = Repository(private=False, commits=[files_of(base) for base in bases])
        folders = []
        for number, fill in enumerate((0.3, 0.6)):
            adapter(tmp_path / f"adapter{number}", fill=fill, base="owner/base")
            config = tmp_path / f"adapter{number}" / "adapter_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"revision": model.sha(0)}))
            folders.append(tmp_path / f"adapter{number}")
        lora = hub.repositories["owner/lora"] = Repository(private=False, commits=[files_of(folder) for folder in folders])
        for number in range(2):
            base = f"owner/base@{model.sha(number)}"
            assert torch.equal(logits(open_model(base, device="cpu").network), logits(tiny_network("llama", number)))
            assert model_identity(base) == base
            source = f"owner/lora@{lora.sha(number)}"
            expected = logits(open_model(str(folders[number]), str(bases[0]), "cpu").network)  # the revision of the base it was trained on
            assert torch.equal(logits(open_model(source, device="cpu").network), expected)
            assert model_identity(source) == source
            _base, tuned = open_pair(f"owner/base@{model.sha(0)}", source, "cpu")
            torch.testing.assert_close(tuned.logprobs(CHATS)[1], open_model(source, device="cpu").logprobs(CHATS)[1], atol=1e-4, rtol=1e-4)
        with pytest.raises(ModelError, match=r"Cannot open the model 'owner/base@nothing'"):
            open_model("owner/base@nothing", device="cpu")


def test_steps_of_a_training_are_a_series_in_their_order(tmp_path: Path) -> None:
    base, series = tiny_folder(tmp_path / "base"), tmp_path / "series"
    for step in (1000, 20, 300):
        adapter(series / f"checkpoint-{step}", base=str(base))
    (series / "checkpoint-last").mkdir()
    (series / "checkpoint-7").mkdir()  # without a model
    expected = [str(series / f"checkpoint-{step}") for step in (20, 300, 1000)]
    assert checkpoints(str(series)) == expected
    for step in (5, 40):
        tiny_folder(tmp_path / "whole" / f"checkpoint-{step}")
    assert checkpoints(str(tmp_path / "whole")) == [str(tmp_path / "whole" / f"checkpoint-{step}") for step in (5, 40)]
    assert checkpoints(str(base)) == [str(base)]
    assert checkpoints("owner/name") == ["owner/name"]
    config = EvaluateConfig(models=[str(base), str(series)], device="cpu")
    assert [subject.name for subject in _subjects(config)] == [str(base), *expected]
    with pytest.raises(ConfigError, match="named twice"):
        _subjects(EvaluateConfig(models=[str(series), expected[1]], device="cpu"))
    with pytest.raises(ModelError, match=r"is no model, but holds 3\. Name one of them, such as .*checkpoint-1000"):
        open_model(str(series), device="cpu")
    shutil.copy(series / "checkpoint-300" / "adapter_config.json", series)  # a trained adapter beside its steps
    assert checkpoints(str(series)) == [str(series)]
