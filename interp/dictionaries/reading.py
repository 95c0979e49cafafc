"""Residuals as a dictionary wants them: of one model for an SAE, of all its models on the same tokens for a crosscoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float

from interp.core.errors import DictionaryError
from interp.dictionaries.protocol import Dictionary
from interp.models.activations import capture_batch
from interp.models.chats import TokenBatch
from interp.models.language_model import LanguageModel


def residuals_for(
    dictionary: Dictionary,
    models: Sequence[LanguageModel],
    which: int,
    batch: TokenBatch,
    rows: Sequence[int],
    chosen: Bool[torch.Tensor, "batch position"],
) -> Float[torch.Tensor, "tokens models d_in"]:
    """Residuals at the `chosen` tokens, for `Dictionary.encode_models`: of model `which` alone, or of all that a crosscoder reads.

    Raises `DictionaryError` for a crosscoder of another number of models.
    """
    if dictionary.n_models == 1:
        models = [models[which]]
    elif dictionary.n_models != len(models):
        raise DictionaryError(f"The crosscoder reads {dictionary.n_models} models, and there are {len(models)}. Give base and tuned model.")
    point = dictionary.hook_point
    return torch.stack([capture_batch(model, batch, [point], rows).residuals[point][chosen] for model in models], dim=1)
