"""Texts beyond a model's context, and logits that are no numbers, end in a sentence or a warning."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import (
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from interp.core.errors import ModelError, ModelWarning
from interp.models.activations import capture
from interp.models.chats import Chat
from interp.models.generation import NO_TOKEN, draw, generate
from interp.models.language_model import LanguageModel
from interp.models.limits import context_tokens, has_position_table
from interp.models.sampling import SamplingConfig
from tests.helpers.tiny import CHATS, ask_all, greedy, tiny_model, tiny_network, tiny_tokenizer, written_ids
from tests.helpers.tiny_families import GROUPED, SHAPE

LONG = Chat.ask("Why?", "Put it into hot water and wait for seven minutes. " * 30)


def opt() -> Any:
    shape = {"vocab_size": 400, "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTForCausalLM(OPTConfig(**shape, ffn_dim=64, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=3))


def gpt_neo() -> Any:
    return GPTNeoForCausalLM(GPTNeoConfig(**SHAPE, num_heads=4, attention_types=[[["global"], 3]]))


def gptj() -> Any:
    return GPTJForCausalLM(GPTJConfig(vocab_size=400, n_positions=256, n_embd=32, n_layer=2, n_head=4, rotary_dim=8))


def model_of(name: str) -> LanguageModel:
    if name == "gpt2":
        return tiny_model(0, "gpt2")
    torch.manual_seed(0)
    return LanguageModel({"opt": opt, "gpt_neo": gpt_neo, "gptj": gptj}[name](), tiny_tokenizer(), name)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo", "gptj"])
def test_a_table_of_positions_ends_in_a_sentence(name: str) -> None:
    model = model_of(name)
    longest = max(len(tokenised.ids) for tokenised in model.tokenise(ask_all()))
    room = 256 - longest + 1
    with pytest.raises(
        ModelError, match=rf"has 256 positions: no room for 300 tokens after a prompt of {longest}\. Ask for at most {room}\."
    ):
        generate(model, ask_all(), greedy(300), seed=0)
    assert len(written_ids(model, ask_all(), greedy(room))) == len(ask_all())  # to the last position
    with pytest.raises(ModelError, match="Ask for at most"):
        generate(model, ask_all(), greedy(room + 1), seed=0)
    length = len(model.tokenise([LONG])[0].ids)
    for read in (lambda: model.logprobs([*CHATS, LONG]), lambda: list(capture(model, [*CHATS, LONG], ["blocks.0.hook_resid_post"]))):
        with pytest.raises(ModelError, match=rf"has 256 positions, and a text has {length} tokens\. Shorten it"):
            read()
    with pytest.raises(ModelError, match=r"no room for 5 tokens after a prompt of .*\. Shorten the prompt\."):
        generate(model, [Chat.ask(LONG.response or "")], greedy(5), seed=0)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_rotary_positions_go_on_with_a_warning(family: str) -> None:
    model = tiny_model(0, family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.logprobs(CHATS)
        generate(model, ask_all(), greedy(5), seed=0)
    message = rf"tiny-{family} was made for texts of at most 256 tokens, and longer ones are read or written"
    with pytest.warns(ModelWarning, match=message):
        (own,) = model.logprobs([LONG])
    with torch.inference_mode():
        logits = model.network(torch.tensor([model.tokenise([LONG])[0].ids])).logits[0]
    assert torch.isfinite(own).all()
    assert len(logits) > 256
    with pytest.warns(ModelWarning, match=message):
        list(capture(model, [LONG], ["blocks.0.hook_resid_post"]))
    model.network.generation_config.eos_token_id = model.tokenizer.eos_token = None
    with pytest.warns(ModelWarning, match=message):
        generate(model, ask_all()[:1], greedy(260), seed=0)


def test_padding_does_not_count_and_a_model_may_name_no_limit() -> None:
    model = tiny_model(0, "gpt2")
    assert (context_tokens(model.network), has_position_table(model.network)) == (256, True)
    exact = Chat.ask("Why?", "Why? " * 400)
    (tokenised,) = model.tokenise([exact], max_tokens=256)
    assert len(tokenised.ids) == 256
    assert torch.isfinite(model.logprobs([tokenised, *model.tokenise(CHATS)])[0]).all()
    scaled = LlamaForCausalLM(LlamaConfig(**GROUPED, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}))
    assert not has_position_table(scaled)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "remedy"), [(torch.float16, "Open it with --dtype float32"), (torch.float32, "Check its weights")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_in_a_sentence(temperature: float, dtype: torch.dtype, remedy: str, bad: float) -> None:
    model = LanguageModel(tiny_network("llama").to(dtype), tiny_tokenizer(), "tiny-llama")
    model.network.lm_head.weight.data[7] = bad
    message = rf"tiny-llama computes logits that are not finite \(NaN or infinite\) in {str(dtype)[6:]}\. {remedy}"
    for sampling in ({"min_p": 0.0}, {"min_p": 0.1}, {"min_p": 0.0, "top_p": 0.9}):
        with pytest.raises(ModelError, match=message):
            generate(model, ask_all(), SamplingConfig(temperature=temperature, max_new_tokens=4, **sampling), seed=0)
    with pytest.raises(ModelError, match=message):
        model.logprobs(CHATS)


def test_only_rows_without_numbers_draw_no_token() -> None:
    logits = torch.randn(3, 40)
    logits[1, 5], logits[2, :30] = float("nan"), -torch.inf  # what must not be drawn may be minus infinity
    for sampling in (SamplingConfig(temperature=0.0), SamplingConfig(), SamplingConfig(min_p=0.0)):
        tokens = draw(logits, sampling, torch.full((3,), 0.5)).tolist()
        assert tokens[1] == NO_TOKEN
        assert tokens[0] >= 0
        assert tokens[2] >= 30
