"""Open a dictionary folder, whatever is in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.core.errors import DictionaryError
from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.files import CROSSCODERS, SAES, read_dictionary
from interp.dictionaries.sae import SAE


def load_dictionary(folder: Path, device: torch.device | str = "cpu") -> SAE | Crosscoder:
    """The SAE or crosscoder in a folder; raises `DictionaryError` naming what is missing or not supported."""
    weights, config = read_dictionary(folder)
    return dictionary_from({name: tensor.to(device) for name, tensor in weights.items()}, config)


def load_sae(folder: Path, device: torch.device | str = "cpu") -> SAE:
    """As `load_dictionary`, where only an SAE will do; raises `DictionaryError` for a crosscoder."""
    dictionary = load_dictionary(folder, device)
    if not isinstance(dictionary, SAE):
        raise DictionaryError(f"{folder} is a crosscoder, which reads {dictionary.n_models} models at once. Give an SAE of one.")
    return dictionary


def dictionary_from(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> SAE | Crosscoder:
    """The dictionary of checked weights and config, in the naming of `files.py`."""
    architecture, metadata = config["architecture"], config["metadata"]
    w_enc, b_enc, w_dec = weights["W_enc"], weights["b_gate" if architecture == "gated" else "b_enc"], weights["W_dec"]
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False):  # a setting of TopK alone
        norms = w_dec.norm(dim=-1).clamp(min=1e-8)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    shared: dict[str, Any] = {
        "w_enc": w_enc,
        "b_enc": b_enc,
        "w_dec": w_dec,
        "b_dec": weights["b_dec"],
        "architecture": architecture,
        "k": config["k"] if architecture.endswith("topk") else None,
        "threshold": weights["threshold"] if architecture.endswith("jumprelu") else None,
        "subtract_b_dec": architecture in SAES and bool(config["apply_b_dec_to_input"]),
        "hook_point": str(metadata["hook_name"]),
    }
    if architecture in CROSSCODERS:
        return Crosscoder(**shared, models=tuple(metadata.get("models") or ()))
    gate: dict[str, Any] = {name: weights[name] for name in ("r_mag", "b_mag")} if architecture == "gated" else {}
    return SAE(**shared, **gate, reads=str(metadata.get("reads") or ""), source=str(metadata["model_name"]))
