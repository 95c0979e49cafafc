"""Tiny random models whose layers are not all alike: recurrent and attending ones, windows of attention, mixtures of experts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp.models.language_model import LanguageModel
from tests.helpers.tiny import D_MODEL, tiny_tokenizer
from tests.helpers.tiny_families import GROUPED

WINDOW = 8
"""Tokens of a window, shorter than the prompts."""
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
_DELTA: dict[str, Any] = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_DELTA["layer_types"] = ["linear_attention", "full_attention", "linear_attention"]
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SHARED = {**_EXPERTS, "shared_expert_intermediate_size": 32}
_WINDOWS: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_NEMOTRON = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {**_DELTA, **_SHARED},
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": {**_DELTA, **_SHARED},
    "olmo_hybrid": _DELTA,
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "granitemoehybrid": {**_MAMBA, **_LOCAL, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 32},
    "nemotron_h": {**_NEMOTRON, "layers_block_type": ["mamba", "attention", "mlp"]},
    "zamba2": {"mamba_d_state": 8, "n_mamba_heads": 4, "chunk_size": 8, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "lfm2": {"full_attn_idxs": [1], "block_auto_adjust_ff_dim": False},
    "minimax": {**_LOCAL, "layer_types": _DELTA["layer_types"], "block_size": 8},
}
READS_PADDING = {"recurrent_gemma": {"lru_width": D_MODEL, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]}}
"""In transformers it takes padding for text."""
WINDOWED: dict[str, dict[str, Any]] = {
    "gemma2": _WINDOWS,
    "gemma3_text": _WINDOWS,
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {**_WINDOWS, "use_sliding_window": True},
    "cohere2": _WINDOWS,
    "olmo3": _WINDOWS,
    "exaone4": _WINDOWS,
    "ministral": _WINDOWS,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": _LOCAL,
    "qwen2_moe": _SHARED,
    "qwen3_moe": _EXPERTS,
    "gpt_oss": {**_LOCAL, **_WINDOWS},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": _LOCAL,
    "phimoe": _LOCAL,
    "llama4_text": _LOCAL,
}
MIXTURES: dict[str, dict[str, Any]] = {**HYBRIDS, **WINDOWED, **EXPERTS}


def mixture(model_type: str, seed: int = 2) -> LanguageModel:
    """The model of `model_type`, one of `MIXTURES` or `READS_PADDING`."""
    torch.manual_seed(seed)
    own = {**MIXTURES, **READS_PADDING}[model_type]
    network: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**GROUPED, **own})).eval()
    for name, weight in network.named_parameters():
        if "gemma" in model_type and weight.ndim == 2:  # embeddings are multiplied by the root of the width
            weight.data = torch.randn_like(weight) * (D_MODEL**-0.5 if "embed" in name else 0.3)
    return LanguageModel(network, tiny_tokenizer(), model_type)
