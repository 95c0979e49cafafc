"""SAE folders and dense codes for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from interp.dictionaries.files import dictionary_config, write_dictionary


def save_topk(folder: Path, weights: dict[str, torch.Tensor], k: int, hook_point: str, source: str) -> None:
    """Write a TopK SAE as sae-lens does; `source` names the model it was trained on."""
    d_in, d_sae = weights["W_enc"].shape
    write_dictionary(folder, weights, dictionary_config("topk", d_in, d_sae, hook_point, [source], k))
