"""What an edit costs where nothing should change: next-token distributions and loss on ordinary text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from interp.core.errors import EditError
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel


@dataclass(frozen=True)
class SideEffects:
    """Means over the response tokens of ordinary chats, in nats."""

    kl: float
    """KL(unedited ‖ edited) of the next-token distribution; 0.1 is what Arditi et al. 2024 (arXiv:2406.11717) let pass."""
    loss_before: float
    """Cross-entropy of the text under the unedited model."""
    loss_after: float
    """The same under the edited one."""
    n_tokens: int


@torch.inference_mode()
def side_effects(
    model: LanguageModel, edits: Sequence[Edit], chats: Sequence[Chat], rows: int = 2, progress: Callable[[int], None] | None = None
) -> SideEffects:
    """Read `chats` with and without `edits`. Raises `EditError` for chats without a response, and for figures that are not finite."""
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for indices, batch in model.batches(chats, rows):
        width = int(batch.ids.shape[1] - batch.response_start.min())
        chosen = batch.response_tokens[:, batch.ids.shape[1] - width + 1 :]
        targets = batch.ids[:, batch.ids.shape[1] - width + 1 :][chosen]
        plain = model.read(batch, indices, last_logits=width)[:, :-1][chosen].float().log_softmax(-1)
        with edited(model, *edits):
            changed = model.read(batch, indices, last_logits=width)[:, :-1][chosen].float().log_softmax(-1)
        gap = torch.where(plain.isneginf(), 0.0, plain - changed)  # a token that is impossible adds nothing
        sums[0] += float((plain.exp() * gap).sum())
        sums[1] -= float(plain.gather(-1, targets[:, None]).sum())
        sums[2] -= float(changed.gather(-1, targets[:, None]).sum())
        count += len(targets)
        if progress:
            progress(len(indices))
    if not count:
        raise EditError("The chats have no response, so side effects cannot be measured. Give chats with answers.")
    if not bool(torch.isfinite(sums).all()):
        raise EditError(
            "Side effects are not finite: the edited model gives a token of the text no chance at all, or overflows. Use a lower dose."
        )
    kl, before, after = (float(total) / count for total in sums)
    return SideEffects(max(0.0, kl), before, after, count)
