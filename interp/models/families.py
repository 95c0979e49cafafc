"""What is known of each model family: where its blocks are, which norm reads the stream between attention and MLP, what writes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Writes:
    """The weights that write to the residual stream, where an edit can be folded into them exactly."""

    embedding: str = "model.embed_tokens"
    attention: str = "self_attn.o_proj"
    mlp: str = "mlp.down_proj"
    positions: str = ""
    """Learned position embeddings, added to those of the tokens."""
    bias_settings: Mapping[str, str] = field(default_factory=dict)
    """Of a layer that can have a bias and may be without one: the setting of the config that gives it one."""
    transposed: bool = False
    """Weights are stored as [in, out]."""


@dataclass(frozen=True)
class Family:
    """One architecture of transformers."""

    model_type: str
    """As in `config.json`."""
    block: str
    """Class of a transformer block."""
    mlp_norm: str = "post_attention_layernorm"
    """The norm, within a block, that reads the stream between attention and MLP."""
    blocks: str = "model.layers"
    writes: Writes | None = None
    """None where a norm stands between a write and the stream, so that no weight carries an edit exactly."""
    llama_cpp: str = ""
    """What llama.cpp calls the architecture, where it has another name."""


_ATTENTION_BIAS = {"self_attn.o_proj": "attention_bias"}
_GPT2 = Writes("transformer.wte", "attn.c_proj", "mlp.c_proj", "transformer.wpe", transposed=True)
_NEOX = Writes("gpt_neox.embed_in", "attention.dense", "mlp.dense_4h_to_h", bias_settings={"attention.dense": "attention_bias"})
_FAMILIES = (
    Family("llama", "LlamaDecoderLayer", writes=Writes(bias_settings={**_ATTENTION_BIAS, "mlp.down_proj": "mlp_bias"})),
    Family("mistral", "MistralDecoderLayer", writes=Writes(), llama_cpp="llama"),
    Family("qwen2", "Qwen2DecoderLayer", writes=Writes()),
    Family("qwen3", "Qwen3DecoderLayer", writes=Writes(bias_settings=_ATTENTION_BIAS)),
    Family("gemma", "GemmaDecoderLayer"),
    Family("gemma2", "Gemma2DecoderLayer", "pre_feedforward_layernorm"),
    Family("gemma3_text", "Gemma3DecoderLayer", "pre_feedforward_layernorm", llama_cpp="gemma3"),
    Family("gpt2", "GPT2Block", "ln_2", "transformer.h", writes=_GPT2),
    Family("gpt_neox", "GPTNeoXLayer", blocks="gpt_neox.layers", writes=_NEOX, llama_cpp="gptneox"),
)
FAMILIES = {family.model_type: family for family in _FAMILIES}
BLOCK_PATHS = (*dict.fromkeys(family.blocks for family in _FAMILIES), "model.language_model.layers", "model.decoder.layers")
"""Where a network may keep its blocks; the last two are those of models that read images too, and of encoder-decoder layouts."""
MLP_NORMS = {family.block: family.mlp_norm for family in _FAMILIES}
"""By class of block."""
