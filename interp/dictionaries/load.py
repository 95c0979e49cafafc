"""Open a dictionary folder, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import torch

from interp.core.errors import DictionaryError
from interp.dictionaries.crosscoders import Crosscoder, crosscoder_from
from interp.dictionaries.files import CROSSCODERS, read_dictionary
from interp.dictionaries.sae import SAE, sae_from


def load_dictionary(folder: Path, device: torch.device | str = "cpu") -> SAE | Crosscoder:
    """The SAE or crosscoder in a folder; raises `DictionaryError` naming what is missing or not supported."""
    weights, config = read_dictionary(folder)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    return crosscoder_from(weights, config) if config["architecture"] in CROSSCODERS else sae_from(weights, config)


def load_sae(folder: Path, device: torch.device | str = "cpu") -> SAE:
    """As `load_dictionary`, where only an SAE will do; raises `DictionaryError` for a crosscoder."""
    dictionary = load_dictionary(folder, device)
    if not isinstance(dictionary, SAE):
        raise DictionaryError(f"{folder} is a crosscoder, which reads {dictionary.n_models} models at once. Give an SAE of one.")
    return dictionary
