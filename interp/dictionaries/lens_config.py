"""What a sae-lens config says of the residuals that an SAE reads: honoured, or refused by the field's name; never dropped.

The fields are those of sae-lens' configs before 6 (at the top) and from 6 on (under `metadata`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from interp.core.errors import DictionaryError

Tensors = dict[str, torch.Tensor]
LEFT_ALONE = ("fold_ln", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices", "n_devices", "device", "dtype")
"""Settings of TransformerLens' `from_pretrained` that change no residual after a block."""
RMS_NORM = re.compile(r"llama|mistral|mixtral|gemma|qwen|phi-?3|olmo|deepseek|smollm", re.IGNORECASE)
"""Models whose writing weights TransformerLens does not centre: it does so only where LayerNorm takes the mean away."""
HARMLESS = {
    *("normalize_activations", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "activation_fn", "activation_fn_str"),
    *("activation_fn_kwargs", "finetuning_scaling_factor", "normalize_sae_decoder", "scale_sparsity_penalty_by_decoder_norm"),
    *("b_dec_init_method", "mse_loss_normalization", "hook_point_layer", "hook_layer", "hook_point", "hook_name", "hf_hook_name"),
    *("use_cached_activations", "cached_activations_path", "log_activations_store_to_wandb"),
}
"""Fields that are read elsewhere, or are of training alone."""
CHANGES_INPUT = re.compile(
    r"norm|scal|cent(er|re)|fold|bias|shape|head|slice|pos|bos|activation|whiten|clip|mask|skip|_out$|special", re.IGNORECASE
)
"""Names of fields that may change what an SAE reads or computes."""
NOTHING: tuple[Any, ...] = (None, "none", "None", "", 0, 1, [], {})


def in_todays_words(config: dict[str, Any]) -> dict[str, Any]:
    """What sae-lens before 6 named otherwise, and what the format leaves out, filled in with its defaults."""
    config.setdefault("architecture", "standard")
    if "topk" in (config.get("activation_fn_str"), config.get("activation_fn")):
        config |= {"architecture": "topk"} | (config.get("activation_fn_kwargs") or {})
    metadata = dict(config.get("metadata") or {})
    for now, before in (("hook_name", ("hook_name", "hook_point")), ("model_name", ("model_name",))):
        metadata[now] = metadata.get(now) or next((config[name] for name in before if config.get(name)), "")
    config["metadata"] = metadata
    config.setdefault("apply_b_dec_to_input", True)
    if config.get("normalize_activations") in (None, False):
        config["normalize_activations"] = "none"
    return config


def honoured(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], what: str) -> Tensors:
    """The weights for raw residuals, of a config in today's words.

    Where the SAE was trained on centred ones (`center_writing_weights`) the encoder takes each token's mean away itself. Warns of fields
    that tell of the tokens it was trained on, and of those that are not known and may matter. Raises `DictionaryError` for a field that
    cannot be honoured.
    """
    given = {**{name: value for name, value in config.items() if name != "metadata"}, **config["metadata"]}
    given = {"hook_head_index": given.pop("hook_point_head_index", None)} | given
    problems = {
        "reshape_activations": given.get("reshape_activations") not in (None, "none"),
        "hook_head_index": given["hook_head_index"] is not None,
        "hook_name_out": given.get("hook_name_out") not in (None, "", given["hook_name"]),
        "activation_fn": (given.get("activation_fn") or given.get("activation_fn_str")) not in (None, "relu", "topk"),
    }
    if refused := next((name for name, holds in problems.items() if holds), None):
        value = given.get(refused, given.get(f"{refused}_str"))
        raise DictionaryError(f"{what}: its config says {refused}: {value}, which is not supported. Give one of whole residuals.")
    loading = dict(given.get("model_from_pretrained_kwargs") or {})
    centred = loading.pop("center_writing_weights", False)
    notes = {
        "prepend_bos": "without a BOS token before its texts" if given.get("prepend_bos") is False else "",
        "exclude_special_tokens": "without special tokens" if given.get("exclude_special_tokens") not in (None, False, []) else "",
        "seqpos_slice": f"on the positions {given.get('seqpos_slice')} alone" if any(given.get("seqpos_slice") or ()) else "",
        "model_from_pretrained_kwargs": "".join(f"with {k}={v}, " for k, v in loading.items() if k not in LEFT_ALONE)[:-2],
    }
    for name, note in notes.items():
        if note:
            warnings.warn(f"{what} was trained {note} ({name}): here it reads what the model and its template give.", stacklevel=4)
    known = HARMLESS | set(problems) | set(notes)
    unknown = [name for name, value in given.items() if name not in known and CHANGES_INPUT.search(name) and _says(value)]
    if unknown:
        warnings.warn(f"{what}: {', '.join(unknown)} in its config is not known, and is left alone.", stacklevel=4)
    if not centred:
        return dict(weights)
    if RMS_NORM.search(str(given["model_name"])):
        warnings.warn(f"{what}: center_writing_weights does nothing in a model with RMSNorm, and is left alone.", stacklevel=4)
        return dict(weights)
    warnings.warn(
        f"{what} was trained on centred residuals (center_writing_weights): its encoder takes each token's mean away.", stacklevel=4
    )
    return _centring(dict(weights), bool(config["apply_b_dec_to_input"]))


def _says(value: Any) -> bool:
    """Whether a field's value asks for anything."""
    return value is True or value not in NOTHING


def _centring(weights: Tensors, subtract_b_dec: bool) -> Tensors:
    """The encoder that gives for x what it gave for x - mean(x)."""
    means = weights["W_enc"].mean(0)
    if subtract_b_dec:  # the mean of b_dec is not to be taken away with that of x
        shift = -weights["b_dec"].sum() * means
        gated = "b_gate" in weights
        weights["b_gate" if gated else "b_enc"] = weights["b_gate" if gated else "b_enc"] + shift
        if gated:
            weights["b_mag"] = weights["b_mag"] + weights["r_mag"].exp() * shift
    return weights | {"W_enc": weights["W_enc"] - means}
