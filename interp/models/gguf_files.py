"""GGUF files as folders of safetensors, converted once under a temporary name that is renamed when whole.

transformers reads the tensors. What its reader passes over is checked or added here: parts of a split file, tensors that are missing
or have no place, and the scaling of rotary positions (`rope.scaling.*`, `rope_freqs.weight`, `rope_factors_*.weight`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from interp.core.errors import ModelError, reason_of
from interp.core.files import saving
from interp.models.weights import check_none_missing, with_weights

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

SCALING_KEYS = {"type", "factor", "original_context_length", "attn_factor", "finetuned", "yarn_beta_fast", "yarn_beta_slow"}
"""Under `rope.scaling.`: those that are understood."""
_SAFETENSORS = "Use the safetensors of this model."


def convert_gguf(path: Path, folder: Path) -> Path:
    """`folder` with the weights of `path` as safetensors and the tokenizer beside them; made on first use.

    Raises `ModelError` where the file is damaged, incomplete, or holds what the converted model would not compute.
    """
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        try:
            reader = GGUFReader(path)
            _check_whole(reader, path)
            network, loading = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            check_none_missing(loading["missing_keys"], path)
            _check_all_read(reader, network, path)
            network = _with_rotary_scaling(reader, network, path)
        except ModelError:
            raise
        except Exception as error:  # readers of a damaged GGUF raise many kinds
            raise ModelError(f"transformers cannot read {path}: {reason_of(error)}. Use a GGUF of a supported architecture.") from error
        with saving(folder) as partial:
            network.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    return folder


def _check_whole(reader: GGUFReader, path: Path) -> None:
    parts, own = (_value(reader, key, 0) for key in ("split.count", "split.no"))
    if parts > 1:
        missing = [name for name in _part_names(path, parts) if not (path.parent / name).is_file()]
        lacking = f" ({', '.join(missing)} missing beside it)" if missing else ""
        raise ModelError(
            f"{path} is part {own + 1} of {parts} of a model{lacking}. Join the parts with llama.cpp's llama-gguf-split --merge and "
            "open that file."
        )


def _part_names(path: Path, parts: int) -> list[str]:
    """Of all parts, where `path` is named as llama.cpp names one (`NAME-00001-of-00002.gguf`)."""
    stem, _, rest = path.stem.rpartition("-of-")
    return [f"{stem[:-5]}{part:05d}-of-{rest}.gguf" for part in range(1, parts + 1)] if stem[-5:].isdigit() else []


def _check_all_read(reader: GGUFReader, network: PreTrainedModel, path: Path) -> None:
    """Raise `ModelError` unless every number of the file has become one of the network's."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    tensors = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_")}
    held, made = sum(tensors.values()), sum(parameter.numel() for parameter in network.parameters())
    if held != made:
        processor = TENSOR_PROCESSORS.get(_value(reader, "general.architecture", ""), TensorProcessor)(config=network.config.to_dict())
        places = get_gguf_hf_weights_map(network, processor)
        unread = [name for name in tensors if name not in places and name.removesuffix(".weight") not in places]
        named = f" (it has no place for {unread[0]}{', …' if len(unread) > 1 else ''})" if unread else ""
        raise ModelError(f"{path} holds {held:,} weights, and the model that transformers makes of it has {made:,}{named}. {_SAFETENSORS}")


def _with_rotary_scaling(reader: GGUFReader, network: PreTrainedModel, path: Path) -> PreTrainedModel:
    """The network with the file's scaling of rotary positions in its config, which no longer says that it is quantised."""
    config = network.config.to_dict()
    config.pop("quantization_config", None)
    scaling = _rotary_scaling(reader, path)
    rotary = config.get("rope_parameters") or {}
    own = rotary.get("full_attention", rotary)  # llama.cpp leaves the layers with a window as they are
    dimensions = _value(reader, f"{_value(reader, 'general.architecture', '')}.rope.dimension_count", 0)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"] if own else 0
    if own and dimensions not in (0, int(width * own.get("partial_rotary_factor", 1.0))):
        if "partial_rotary_factor" not in own:
            raise ModelError(
                f"{path} rotates {dimensions} of {width} dimensions of a head, which transformers' reader loses. {_SAFETENSORS}"
            )
        own["partial_rotary_factor"] = dimensions / width
    if scaling and not own:
        raise ModelError(f"{path} scales rotary positions ({scaling['rope_type']}), which transformers' reader loses. {_SAFETENSORS}")
    own.update(scaling)
    if "original_max_position_embeddings" in scaling and "original_max_position_embeddings" in config:
        config["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return with_weights(network, type(network.config).from_dict(config), network.state_dict())


def _rotary_scaling(reader: GGUFReader, path: Path) -> dict[str, Any]:
    """What transformers calls `rope_parameters`, of a file whose rotary positions are scaled as llama.cpp does; else empty."""
    from gguf import dequantize

    prefix = f"{_value(reader, 'general.architecture', '')}."
    given = {key: _value(reader, prefix + "rope.scaling." + key, None) for key in _suffixes(reader, prefix + "rope.scaling.")}
    factors = {t.name: dequantize(t.data, t.tensor_type).tolist() for t in reader.tensors if t.name.startswith("rope_")}
    factor = float(given.get("factor") or _value(reader, prefix + "rope.scale_linear", 0) or 1)
    kind = given.get("type", "linear")
    trained = int(given.get("original_context_length") or _value(reader, prefix + "context_length", 0))
    unknown = sorted(given.keys() - SCALING_KEYS)
    if (
        unknown
        or kind not in ("none", "linear", "yarn", "longrope")
        or (factors and kind == "yarn")
        or (kind == "longrope" and not factors)
    ):
        what = f"rope.scaling.{unknown[0]}" if unknown else f"rope.scaling.type '{kind}' with {', '.join(factors) or 'no factors'}"
        raise ModelError(f"{path} scales rotary positions in a way that is not known ({what}). {_SAFETENSORS}")
    attention = {"attention_factor": float(given["attn_factor"])} if given.get("attn_factor") else {}
    if "rope_freqs.weight" in factors:  # each frequency is divided by its factor, at every length
        divisors = [each * (factor if kind == "linear" else 1.0) for each in factors["rope_freqs.weight"]]
        lengths = {"short_factor": divisors, "long_factor": divisors}
        return {"rope_type": "longrope", **lengths, "attention_factor": 1.0, "original_max_position_embeddings": trained}
    if factors:
        lengths = {f"{length}_factor": factors[f"rope_factors_{length}.weight"] for length in ("short", "long")}
        return {"rope_type": "longrope", **lengths, **attention, "original_max_position_embeddings": trained}
    if kind == "yarn":
        betas = {beta: float(given[f"yarn_{beta}"]) for beta in ("beta_fast", "beta_slow") if f"yarn_{beta}" in given}
        if attention:  # llama.cpp multiplies the usual one by it
            attention["attention_factor"] *= 0.1 * math.log(factor) + 1.0
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, **betas, **attention}
    return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1.0 else {}


def _suffixes(reader: GGUFReader, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in reader.fields if key.startswith(prefix)]


def _value(reader: GGUFReader, key: str, default: Any) -> Any:
    field = reader.fields.get(key)
    return default if field is None else field.contents()
