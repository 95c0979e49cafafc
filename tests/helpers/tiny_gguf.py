"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from tests.helpers.tiny import tiny_network, tiny_tokenizer

NAMES = {"self_attn.": "attn_", "mlp.": "ffn_", "_proj": "", "attn_o.": "attn_output.", "input_layernorm": "attn_norm"}
NAMES |= {"pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
NAMES |= {"model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NAMES |= {"gate_up": "up"}


def tiny_gguf(
    path: Path,
    seed: int = 0,
    network: Any = None,
    arch: str = "llama",
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    **fields: object,
) -> Path:
    """`network` (default: the tiny Llama) as a GGUF file in float32. `change` may edit its tensors; `fields` are further ones of the
    architecture, `__` in their names standing for a dot."""
    network, vocabulary = network or tiny_network("llama", seed), json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    config = network.config
    writer = GGUFWriter(path, arch)
    for add, value in (
        (writer.add_block_count, config.num_hidden_layers),
        (writer.add_context_length, config.max_position_embeddings),
        (writer.add_embedding_length, config.hidden_size),
        (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads),
        (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_vocab_size, config.vocab_size),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps),
        (writer.add_rope_freq_base, config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"]),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)),
        (writer.add_token_types, [3] * 4 + [1] * (len(vocabulary["vocab"]) - 4)),
        (writer.add_token_merges, [" ".join(merge) for merge in vocabulary["merges"]]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 3),
        (writer.add_pad_token_id, 0),
        (writer.add_chat_template, tiny_tokenizer().chat_template),
    ):
        add(value)
    for name, value in fields.items():
        add_value = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}[type(value)]
        key = name.replace("__", ".")
        add_value(key if key.startswith("split.") else f"{arch}.{key}", value)
    tensors = {}
    for name, weight in network.state_dict().items():
        array = weight.numpy()
        if arch == "llama" and (heads := {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])):  # llama.cpp interleaves a head's halves
            array = np.ascontiguousarray(array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape))
        if arch == "gemma3" and "norm" in name:
            array = array + 1
        ffn_norm = "post_attention_norm" if arch == "gemma3" else "ffn_norm"
        for ours, theirs in {"post_attention_layernorm": ffn_norm, **NAMES}.items():
            name = name.replace(ours, theirs)
        tensors[name] = array
    change(tensors)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
