"""A trained dictionary as files: sae-lens' format for an SAE, the same two files for a crosscoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.dictionaries.files import crosscoder_config, sae_config, write_dictionary
from sae_training.sae_trainer import SAETrainer


def export(trainer: SAETrainer, hook_point: str, models: Sequence[str], made: dict[str, object], folder: Path) -> None:
    """Write the dictionary with all that was done to its input folded into the weights, so that it reads raw residuals."""
    coder, layout = trainer.coder, trainer.layout
    weights = coder.folded(trainer.input.normaliser)
    n_latents = trainer.config.architecture.n_latents
    if layout.n_models > 1:
        config = crosscoder_config(f"crosscoder_{coder.kind}", layout.d_in, n_latents, hook_point, models, coder.k, made)
    else:
        reads = trainer.config.reads if trainer.config.reads == "difference" else None
        config = sae_config(coder.kind, layout.d_in, n_latents, hook_point, ", ".join(models), coder.k, made, reads)
    write_dictionary(folder, weights, config)
