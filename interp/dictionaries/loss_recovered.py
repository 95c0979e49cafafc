"""How well a model still predicts when a dictionary's reconstruction stands in for its residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from interp.core.errors import DictionaryError
from interp.dictionaries.dictionary import Dictionary
from interp.models.activations import content_tokens
from interp.models.chats import Chat, TokenBatch
from interp.models.language_model import LanguageModel, chat_reader


@dataclass(frozen=True)
class SplicedLoss:
    """Mean cross-entropy (nats) of the next token over content tokens."""

    plain: float
    """Of the model as it is."""
    spliced: float
    """With the dictionary's reconstruction in place of the residuals."""
    ablated: float
    """With the dictionary's own constant (`b_dec`: the mean, and what its bias learnt) in place of the residuals."""
    tokens: int

    @property
    def recovered(self) -> float | None:
        """Share of the loss between ablated and plain that the reconstruction recovers: 1 is perfect, 0 as bad as the constant.

        None where ablation does no harm that could be recovered.
        """
        harm = self.ablated - self.plain
        return (self.ablated - self.spliced) / harm if harm > 0 else None


def spliced_loss(
    models: Sequence[LanguageModel],
    dictionary: Dictionary,
    chats: Sequence[Chat],
    which: int = 0,
    rows: int = 4,
    max_tokens: int | None = None,
) -> SplicedLoss:
    """Losses of model `which` on `chats`. A crosscoder reads all its `models`, an SAE one.

    Raises `DictionaryError` for chats without a token to predict.
    """
    model, point = models[which], dictionary.hook_point
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for indices, batch in chat_reader(models).batches(chats, rows, max_tokens):
        chosen = content_tokens(batch)
        codes = dictionary.encode_models(dictionary.residuals_of(models, which, batch, indices, chosen))
        reconstructed = dictionary.decode_model(codes[which if dictionary.n_models > 1 else 0], which)
        mean = dictionary.decoder_bias(which)
        for place, replacement in enumerate((None, reconstructed, mean.expand_as(reconstructed))):
            total, n_tokens = _loss(model, batch, indices, point, chosen, replacement)
            sums[place] += total
        count += n_tokens
    if not count:
        raise DictionaryError("The chats hold no token to predict. Give chats with text.")
    plain, spliced, ablated = (float(total) / count for total in sums)
    return SplicedLoss(plain, spliced, ablated, count)


def _loss(
    model: LanguageModel,
    batch: TokenBatch,
    rows: Sequence[int],
    point: str,
    chosen: Bool[torch.Tensor, "batch position"],
    replacement: Float[torch.Tensor, "tokens d_in"] | None,
) -> tuple[float, int]:
    """Summed cross-entropy of the tokens that follow a chosen one, and their number."""

    def replace(residual: torch.Tensor) -> torch.Tensor | None:
        if replacement is None:
            return None
        changed = residual.clone()
        changed[chosen] = replacement.to(residual.dtype)
        return changed

    with model.attach(point, replace):
        unembedding = model.run_batch(batch, rows)
    predicted = chosen[:, :-1] & batch.mask[:, 1:]
    targets = batch.ids[:, 1:][predicted]
    weights = torch.ones(targets.shape, device=targets.device)
    return float(unembedding.loss(unembedding.hidden[:, :-1][predicted], targets, weights)), len(targets)
