"""Tiny random models of more families and layouts than tiny.py's five: tied embeddings, biases, attention and MLP in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from interp.models.language_model import LanguageModel
from tests.helpers.tiny import D_MODEL, N_LAYERS, tiny_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
WIDE: dict[str, Any] = {**SHAPE, "intermediate_size": 2 * D_MODEL}
GROUPED: dict[str, Any] = {**WIDE, "num_key_value_heads": 2, "head_dim": D_MODEL // 4}
IN_TURN: dict[str, Any] = {**WIDE, "use_parallel_residual": False}
NETWORKS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "llama, biases": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED)),
    "qwen2, tied": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED)),
    "gpt2, tied": lambda: GPT2LMHeadModel(GPT2Config(**SHAPE)),
    "gpt_neox, parallel": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
    "gpt_neox, sequential": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IN_TURN)),
    "gpt_neox, sequential, no bias": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IN_TURN, attention_bias=False)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**GROUPED)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED)),
}


def made(name: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model called `name` in `NETWORKS`, always with the same weights."""
    torch.manual_seed(3)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:  # biases and norms away from their neutral 0 and 1
            parameter.data += 0.1 * torch.randn_like(parameter)
    return LanguageModel(network.to(dtype), tiny_tokenizer(), name)
