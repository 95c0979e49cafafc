"""A fine-tune is asked in its own format: what its folder brings counts, added tokens and resized embeddings with it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from interp.core.errors import ChatFormatWarning, ModelError
from interp.models.adapter_pair import open_pair
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel, chat_reader, check_pair
from interp.models.sources import open_model
from tests.helpers.templates import LLAMA3, PHI3, tokenizer_of
from tests.helpers.tiny import CHATML, IDS, logits, tiny_folder, tiny_network, tiny_tokenizer

QUESTION = "How do I boil an egg?"
CHAT = Chat.ask(QUESTION, "Wait.")
pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys")


def base_folder(folder: Path, template: str | None, vocab: int = 400) -> Path:
    tiny_network("llama", 0, vocab=vocab).save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    return folder


def adapter_folder(folder: Path, rows: int | None = None, vocab: int = 400, **lora: Any) -> Path:
    """A LoRA adapter that changes much; `rows`: the embeddings are resized first, as for added tokens, and moved."""
    network = tiny_network("llama", 0, vocab=vocab)
    if rows is not None:
        network.resize_token_embeddings(rows)
    wrapped = get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **lora))
    if rows is not None:
        torch.manual_seed(5)
        for name, parameter in wrapped.named_parameters():
            if "embed" in name or "lm_head" in name:
                parameter.data[-3:] = torch.randn_like(parameter.data[-3:])
    wrapped.save_pretrained(folder, save_embedding_layers=rows is not None)
    return folder


def asked(tokenizer: Any, question: str = QUESTION) -> str:
    return str(tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True))


def prompt_of(model: LanguageModel) -> str:
    return str(model.tokenizer.decode(model.tokenise([Chat.ask(QUESTION)])[0].ids))


def whole(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)


def bare(tokenizer: Any, folder: Path) -> None:
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)


def template_alone(tokenizer: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)


def template_as_json(tokenizer: Any, folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))


def template_in_settings(tokenizer: Any, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": tokenizer.chat_template, "eos_token": "<bos>"}))


@pytest.mark.parametrize("brings", [whole, bare, template_alone, template_as_json, template_in_settings])
@pytest.mark.parametrize("base_template", [None, LLAMA3])
def test_a_tuned_model_is_asked_in_the_format_of_its_adapter(brings: Any, base_template: str | None, tmp_path: Path) -> None:
    base, tuned = str(base_folder(tmp_path / "base", base_template)), adapter_folder(tmp_path / "adapter")
    brings(tiny_tokenizer(CHATML), tuned)
    (tuned / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    with pytest.warns(ChatFormatWarning, match="asked in its own chat format"):
        alone = open_model(str(tuned), base, "cpu")
    with pytest.warns(ChatFormatWarning, match="asked in its own chat format"):
        pair = open_pair(base, str(tuned), "cpu")
    for model in (alone, pair[1]):
        assert prompt_of(model) == asked(tiny_tokenizer(CHATML))
        assert {3, 7, 9} <= set(model.stop_ids)
    assert prompt_of(pair[0]) == prompt_of(open_model(base, None, "cpu")) != prompt_of(alone)
    assert 7 not in pair[0].stop_ids
    assert pair[0].network is pair[1].network
    assert chat_reader(pair) is pair[1]


def test_an_adapter_with_the_format_of_its_base_is_opened_in_silence(tmp_path: Path) -> None:
    base, tuned = str(base_folder(tmp_path / "base", CHATML)), adapter_folder(tmp_path / "adapter")
    whole(tiny_tokenizer(None), tuned)  # a tokenizer without a template, as older trainers save it
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChatFormatWarning)
        assert prompt_of(open_pair(base, str(tuned), "cpu")[1]) == asked(tiny_tokenizer(CHATML))


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}])
@pytest.mark.parametrize(("vocab", "padded"), [(400, 0), (400, 12), (416, 0), (512, 0)])  # of the base; of the adapter's rows
def test_an_adapter_with_added_tokens_is_as_peft_has_it(lora: dict[str, Any], vocab: int, padded: int, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(PHI3)
    rows, base = len(tokenizer) + padded, str(base_folder(tmp_path / "base", None, vocab))
    tuned = adapter_folder(tmp_path / "adapter", rows, vocab, **lora)
    tokenizer.save_pretrained(tuned)
    by_peft = AutoModelForCausalLM.from_pretrained(base)
    by_peft.resize_token_embeddings(rows)
    by_peft = PeftModel.from_pretrained(by_peft, str(tuned)).merge_and_unload()
    ids = torch.cat([IDS, torch.tensor([[rows - padded - 1, 401, 5]])], dim=1)
    expected = logits(by_peft, ids)
    with pytest.warns(ChatFormatWarning):
        alone, pair = open_model(str(tuned), base, "cpu"), open_pair(base, str(tuned), "cpu")
    batch_ids = next(iter(pair[1].batches([CHAT])))[1]
    assert int(batch_ids.ids.max()) >= 400  # added tokens are in the format
    for model in (alone, pair[1]):
        read = model.read(batch_ids, last_logits=0)
        torch.testing.assert_close(read, logits(by_peft, batch_ids.ids), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(alone.network, ids), expected, atol=1e-4, rtol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(base)
    mean = plain.get_input_embeddings().weight.mean(0)
    embeddings = torch.cat([plain.get_input_embeddings().weight, mean.expand(max(rows - vocab, 0), -1)])
    with torch.inference_mode():
        by_hand = plain(inputs_embeds=embeddings[batch_ids.ids]).logits
    torch.testing.assert_close(pair[0].read(batch_ids, last_logits=0)[..., :vocab], by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*has no embeddings of 1 tokens")
@pytest.mark.parametrize("rows", [405, 400, 408])
def test_a_fine_tune_with_an_added_token_pairs_with_its_base(rows: int, tmp_path: Path) -> None:
    base, tokenizer = str(base_folder(tmp_path / "base", CHATML)), tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    network = tiny_network("llama", 1)
    network.resize_token_embeddings(rows)
    network.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    check_pair(open_model(base, None, "cpu"), open_model(str(tmp_path / "tuned"), None, "cpu"))
    apart = [open_model(base, None, "cpu"), open_model(str(tmp_path / "tuned"), None, "cpu")]
    assert chat_reader(apart).source == str(tmp_path / "tuned")
    chats = [CHAT, Chat.ask("Why?", "The air.")]
    for model, truth in zip(open_pair(base, str(tmp_path / "tuned"), "cpu"), apart, strict=True):
        for ours, theirs in zip(model.logprobs(chats), truth.logprobs(chats), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_a_tokenizer_of_a_newer_library_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    for part, kind in (("pre_tokenizer", "Quantum"), ("decoder", "Quantum"), ("normalizer", "Quantum")):
        content = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(content | {part: {"type": kind}}))
        with pytest.raises(ModelError, match=r"cannot read the tokenizer\.json of .*A newer version"):
            open_model(str(folder), None, "cpu")
        (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",), ("chat_template.jinja",)])
def test_a_folder_without_a_tokenizer_says_so(left: tuple[str, ...], tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if name not in left:
            (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        open_model(str(folder), None, "cpu")


def test_a_template_in_chat_template_json_is_used(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "model", None)
    template_as_json(tiny_tokenizer(CHATML), folder)
    assert prompt_of(open_model(str(folder), None, "cpu")) == asked(tiny_tokenizer(CHATML))
