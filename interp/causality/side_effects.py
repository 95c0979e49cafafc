"""What an ablation costs where nothing should change, and whether the behaviour found another way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pandas as pd
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
        width, following, chosen = batch.response_window()
        targets = following[chosen]
        unedited = model.run_batch(batch, indices)
        with edited(model, *edits):
            ablated = model.run_batch(batch, indices)
        hidden, changed_hidden = (run.hidden[:, -width:-1][chosen] for run in (unedited, ablated))
        for part in unedited.parts(len(targets)):
            plain = unedited.logits(hidden[part]).float().log_softmax(-1)
            changed = ablated.logits(changed_hidden[part]).float().log_softmax(-1)
            gap = torch.where(plain.isneginf(), 0.0, plain - changed)  # a token that is impossible adds nothing
            sums[0] += float((plain.exp() * gap).sum())
            sums[1] -= float(plain.gather(-1, targets[part, None]).sum())
            sums[2] -= float(changed.gather(-1, targets[part, None]).sum())
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


def rerouting(before: pd.DataFrame, after: pd.DataFrame, removed: Collection[int], largest_q: float) -> pd.DataFrame:
    """Latents that rose surely above the base in the ablated model, and more than they had in the tuned one, strongest first.

    `before` and `after` are latent tables (columns latent, mean_diff, mean_diff_low, mean_diff_high, q_value) of tuned against base and of
    ablated against base; `removed` latents are left out. A latent counts when its q-value after is at most `largest_q` and the
    interval of its mean_diff after lies above that before. Columns: latent, mean_diff_before, mean_diff_after, low_after, high_after,
    q_after, and the cosines and attribution that `after` has: one that turns up here and points along the persona is a way round.
    """
    joined = before[["latent", "mean_diff", "mean_diff_high"]].merge(after, on="latent", suffixes=("", "_after")).set_index("latent")
    moved = joined[
        ~joined.index.isin(list(removed))
        & (joined["q_value"] <= largest_q)
        & (joined["mean_diff_after"] > 0)
        & (joined["mean_diff_low"] > joined["mean_diff_high"])
    ]
    columns = {
        "mean_diff": "mean_diff_before",
        "mean_diff_after": "mean_diff_after",
        "mean_diff_low": "low_after",
        "mean_diff_high_after": "high_after",
        "q_value": "q_after",
    }
    kept = [name for name in ("cosine_persona", "cosine_mean_difference", "attribution") if name in moved]
    table = moved[[*columns, *kept]].rename(columns=columns)
    return table.sort_values("mean_diff_after", ascending=False, kind="stable").reset_index()
