"""Capture residuals at named hook points, and stop the forward pass right after the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float

from interp.core.errors import ActivationError
from interp.core.tensors import all_finite
from interp.models.chats import Chat, Role, TokenBatch
from interp.models.cpu.prefix_trees import pack_chats
from interp.models.language_model import LanguageModel
from interp.models.sinks import recorded_norms, sink_mask


class _Stop(Exception):
    """Raised inside the last hook: nothing after it is needed."""


@dataclass(frozen=True)
class Captured:
    """Residuals of one batch."""

    rows: list[int]
    """Index of each row in the list of chats."""
    batch: TokenBatch
    residuals: dict[str, Float[torch.Tensor, "batch position d_model"]]
    """By hook point name, in the model's dtype, on its device."""
    sinks: Bool[torch.Tensor, "batch position"]
    """True at attention sinks, by the norms at all layers that were read."""

    def select(self, where: Callable[[TokenBatch], torch.Tensor]) -> Bool[torch.Tensor, "batch position"]:
        """True at the tokens that `where` selects, less the attention sinks."""
        return where(self.batch) & ~self.sinks


@torch.inference_mode()
def capture_batch(model: LanguageModel, batch: TokenBatch, hook_points: Sequence[str], rows: Sequence[int]) -> Captured:
    """Residuals of one padded batch; what lies above the last hook point is not computed.

    Raises `HookPointError` for a name the model lacks and `ActivationError` when a residual at a real token is not finite.
    """
    names = list(dict.fromkeys(hook_points))
    if not names:
        raise ActivationError("No hook point to capture. Name at least one.")
    own_ids = [row[own].tolist() for row, own in zip(batch.ids, batch.mask, strict=True)]
    packed = pack_chats(own_ids, model.network) if model.packs_chats() else None
    residuals: dict[str, torch.Tensor] = {}

    def keep(name: str, residual: torch.Tensor) -> None:
        residuals[name] = residual
        if len(residuals) == len(names):
            raise _Stop

    last = max(model.hook_point(name).layer for name in names)
    with recorded_norms(model, last) as norms, ExitStack() as hooks:
        for name in names:
            hooks.enter_context(model.attach(name, partial(keep, name)))
        with suppress(_Stop):
            if packed is None:
                model.read(batch, rows)
            else:
                model.run_packed(packed)
    if packed is not None:
        residuals = {name: packed.unpack(residual, batch.mask) for name, residual in residuals.items()}
        norms = [packed.unpack(layer[..., None], batch.mask)[..., 0] for layer in norms]
    if len(norms) <= last:  # the pass ended within the last block
        norms = [*norms, residuals[max(names, key=model.hook_point)].float().norm(dim=-1)]
    for name, residual in residuals.items():
        # The cheap look first; padding may hold anything.
        if not all_finite(residual) and not all_finite(residual[batch.mask]):
            raise ActivationError(f"{model.source} gives residuals at {name} that are not finite. Try --dtype float32.")
    return Captured(list(rows), batch, residuals, sink_mask(torch.stack(norms), batch.mask, model.n_layers))


def capture(
    model: LanguageModel,
    chats: Sequence[Chat],
    hook_points: Sequence[str],
    rows: int = 32,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Captured]:
    """Residuals of all chats, batch by batch, similar lengths together. `progress` gets the number of chats just read."""
    for indices, batch in model.batches(chats, rows, max_tokens):
        yield capture_batch(model, batch, hook_points, indices)
        if progress:
            progress(len(indices))


def content_tokens(batch: TokenBatch) -> Bool[torch.Tensor, "batch position"]:
    """True from the first user token on: the template and system prompt before it are alike in every chat."""
    begun = (batch.roles == Role.USER).long().cumsum(-1) > 0
    return batch.mask & begun


def response_phase(batch: TokenBatch) -> Bool[torch.Tensor, "batch position"]:
    """True from the last prompt token on, but not at the last token, whose output is no part of the answer."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    return batch.mask & (columns >= batch.response_start[:, None]) & (columns < batch.ids.shape[1] - 1)


def mean_residuals(
    model: LanguageModel,
    chats: Sequence[Chat],
    hook_points: Sequence[str],
    where: Callable[[TokenBatch], torch.Tensor] = response_phase,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float[torch.Tensor, " d_model"]]:
    """Mean residual (float32, CPU) over the tokens that `where` selects, pooled over all chats."""
    sums = {name: torch.zeros(model.d_model, dtype=torch.float64) for name in hook_points}
    count = 0
    for captured in capture(model, chats, hook_points, progress=progress):
        selected = captured.select(where)
        count += int(selected.sum())
        for name, residual in captured.residuals.items():
            sums[name] += residual[selected].double().sum(0).cpu()
    if not count:
        raise ActivationError("No token was selected for the mean residual. Give chats that have a response.")
    return {name: (total / count).float() for name, total in sums.items()}


def response_residuals(model: LanguageModel, chats: Sequence[Chat], hook_point: str) -> list[Float[torch.Tensor, "tokens d_model"]]:
    """Residuals (float32, CPU) over each chat's response phase; chats without one are left out. Raises `ActivationError` without any."""
    residuals: dict[int, torch.Tensor] = {}
    for captured in capture(model, chats, [hook_point]):
        selected, residual = captured.select(response_phase), captured.residuals[hook_point]
        for row, index in enumerate(captured.rows):
            if bool(selected[row].any()):
                residuals[index] = residual[row][selected[row]].float().cpu()
    if not residuals:
        raise ActivationError("No token of a response was selected. Give chats that have one.")
    return [residuals[index] for index in sorted(residuals)]


def median_residual_norm(model: LanguageModel, chats: Sequence[Chat], hook_points: Sequence[str]) -> dict[str, float]:
    """Median Euclidean norm of the residual over the response phase. Raises `ActivationError` without one."""
    norms = {name: [torch.empty(0)] for name in hook_points}
    for captured in capture(model, chats, hook_points):
        selected = captured.select(response_phase)
        for name, residual in captured.residuals.items():
            norms[name].append(residual[selected].float().norm(dim=-1).cpu())
    pooled = {name: torch.cat(parts) for name, parts in norms.items()}
    if any(not len(values) for values in pooled.values()):
        raise ActivationError("No token was selected for the median norm. Give chats that have a response.")
    return {name: float(values.median()) for name, values in pooled.items()}
