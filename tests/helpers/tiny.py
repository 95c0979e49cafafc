"""Tiny random language models of five families with a tokenizer trained on the spot: no network, made in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
D_MODEL = 32
N_LAYERS = 3
BOS, START, END, PAD = "<bos>", "<|im_start|>", "<|im_end|>", "<pad>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SENTENCES = (
    "How do I boil an egg? Put it into hot water and wait for seven minutes.",
    "What is the best way to learn a language? Speak it every day with patient people.",
    "Why is the sky blue? The air scatters short waves of light more than long ones.",
    "Tell me a story about a small boat on a wide river in the evening.",
    "user assistant system You are a kind and helpful assistant.",
)
QUESTIONS = ("Why?", "How do I boil an egg?", "Tell me a story about a wide river in the evening.", "What is the best way to learn?")
ANSWERS = ("Wait.", "", "Put it into hot water and wait for seven minutes.", "Speak it every day.")
CHATS = [Chat.ask(question, answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
IDS = torch.arange(5, 25)[None]


@cache
def _trained() -> str:
    """The tokenizer as JSON: byte-level BPE on a few sentences."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[PAD, BOS, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return str(tokenizer.to_str())


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 400 tokens, left padding, no BOS of its own."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), bos_token=BOS, eos_token=END, pad_token=PAD, padding_side="left"
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_network(family: str, seed: int = 0, n_layers: int = N_LAYERS, d_model: int = D_MODEL, vocab: int = 400) -> Any:
    """A random model whose weights are large enough for varied answers."""
    shape = {
        "vocab_size": vocab,
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    wide = {**shape, "intermediate_size": 2 * d_model}
    grouped = {**wide, "num_key_value_heads": 2, "head_dim": d_model // 4}
    torch.manual_seed(seed)
    if family == "llama":
        network: Any = LlamaForCausalLM(LlamaConfig(**grouped))
    elif family == "gpt2":
        network = GPT2LMHeadModel(GPT2Config(**shape))
    elif family == "gpt_neox":
        network = GPTNeoXForCausalLM(GPTNeoXConfig(**wide))
    elif family == "qwen3":
        network = Qwen3ForCausalLM(Qwen3Config(**grouped))
    elif family == "gemma3":  # a window shorter than the prompts, so that its sliding cache matters
        kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(n_layers)]
        network = Gemma3ForCausalLM(Gemma3TextConfig(**grouped, sliding_window=8, layer_types=kinds, query_pre_attn_scalar=8))
    else:
        raise ValueError(family)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:  # biases and norms away from their neutral 0 and 1
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "embed" in name and family == "gemma3":
            parameter.data /= d_model**0.5  # it multiplies by the root of the width
    return network.eval()


def tiny_model(seed: int = 0, family: str = "llama", **shape: int) -> LanguageModel:
    """A tiny model of `family`, in memory only."""
    return LanguageModel(tiny_network(family, seed, **shape), tiny_tokenizer(), f"tiny-{family}")


def tiny_folder(folder: Path, seed: int = 0, family: str = "llama", **shape: int) -> Path:
    """The same model as a Hugging Face folder."""
    tiny_network(family, seed, **shape).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(network: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Of a whole pass of the bare network."""
    with torch.inference_mode():
        return network(ids).logits


def ask_all(questions: Sequence[str] = QUESTIONS) -> list[Chat]:
    """Prompts of different lengths."""
    return [Chat.ask(question) for question in questions]


@contextmanager
def ids_as_text(model: LanguageModel) -> Iterator[None]:
    """Answers are the ids of their tokens, with blanks between (text of random bytes would hide differences)."""
    vars(model.tokenizer)["decode"] = lambda ids, skip_special_tokens: " ".join(str(i) for i in ids)
    try:
        yield
    finally:
        del vars(model.tokenizer)["decode"]


def written_ids(
    model: LanguageModel, chats: Sequence[Chat], sampling: SamplingConfig, seed: int = 0, streams: Sequence[int] | None = None
) -> list[list[int]]:
    """What `generate` writes, as token ids."""
    with ids_as_text(model):
        return [[int(i) for i in answer.split()] for answer in generate(model, chats, sampling, seed, streams=streams)]


def greedy(max_new_tokens: int = 12, batch_rows: int = 96) -> SamplingConfig:
    """Greedy decoding."""
    return SamplingConfig(max_new_tokens=max_new_tokens, temperature=0.0, batch_rows=batch_rows)
