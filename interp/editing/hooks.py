"""Apply edits to a running model: `with edited(model, edit): …`, or a different edit in every row with `edited_rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from interp.editing.edits import Edit
from interp.errors import EditError
from interp.hook_points import attach
from interp.models import LanguageModel


@contextmanager
def edited(model: LanguageModel, *edits: Edit) -> Iterator[LanguageModel]:
    """Everything `model` does inside is edited, by all `edits` in order.

    Raises `HookPointError` for a place the model lacks, and `EditError` on leaving if tokens were read and none was edited.
    """
    with ExitStack() as hooks:
        applied = [hooks.enter_context(_attached(model, [edit], by_row=False)) for edit in edits]
        yield model
    for edit, touched in zip(edits, applied, strict=True):
        _check_touched(edit.label or edit.kind, edit.phase, touched)


@contextmanager
def edited_rows(model: LanguageModel, edits: Sequence[Edit | None]) -> Iterator[LanguageModel]:
    """Row i of the next call to `generate`, `read` or `logprobs` is edited by `edits[i]`; None leaves it alone.

    Raises as `edited` does, and `EditError` when another `edited_rows` is active or the model reads a row beyond the list.
    """
    if model.prompt_signatures is not None:
        raise EditError("edited_rows cannot be nested. Put both edits of a row into one call.")
    present = [edit for edit in edits if edit is not None]
    if not present:
        raise EditError("No row has an edit, so nothing would change. Call the model without edited_rows.")
    kinds = sorted({(edit.kind, edit.phase) for edit in present})
    model.prompt_signatures = [None if edit is None or edit.phase == "response" else edit.key for edit in edits]
    try:
        with ExitStack() as hooks:
            applied = []
            for kind, phase in kinds:
                chosen = [edit if edit is not None and (edit.kind, edit.phase) == (kind, phase) else None for edit in edits]
                applied.append(hooks.enter_context(_attached(model, chosen, by_row=True)))
            yield model
    finally:
        model.prompt_signatures = None
    for (kind, phase), touched in zip(kinds, applied, strict=True):
        _check_touched(kind, phase, touched)


@dataclass
class _Touched:
    """What an edit's hooks have seen."""

    passes: int = 0
    tokens: int = 0


def _check_touched(name: str, phase: str, touched: _Touched) -> None:
    if touched.passes and not touched.tokens:
        raise EditError(f"The edit '{name}' touched no token: none was in its phase '{phase}'. Use another phase, or chats that have it.")


@contextmanager
def _attached(model: LanguageModel, edits: Sequence[Edit | None], by_row: bool) -> Iterator[_Touched]:
    """Hooks for edits of one kind and phase: a list with one entry a row, or one edit for all rows."""
    touched = _Touched()
    names = sorted({name for edit in edits if edit for name in edit.hook_points})
    points = {name: model.hook_point(name) for name in names}
    for edit in edits:
        if edit is not None and edit.vectors.shape[-1] != model.d_model:
            raise EditError(f"The edit '{edit.label}' has width {edit.vectors.shape[-1]}, {model.source} has {model.d_model}.")
    with ExitStack() as hooks:
        for name, point in points.items():
            visit = _visitor(model, name, edits, by_row, touched)
            hooks.callback(attach(model.block(point.layer), point.site, visit).remove)
        yield touched


def _visitor(
    model: LanguageModel, name: str, edits: Sequence[Edit | None], by_row: bool, touched: _Touched
) -> Callable[[Float[torch.Tensor, "batch position d_model"]], torch.Tensor]:
    """The function that edits the residual at hook point `name`."""
    first = next(edit for edit in edits if edit is not None)
    kind, phase = first.kind, first.phase
    rank = max(edit.vectors.shape[1] for edit in edits if edit is not None)
    vectors = torch.zeros(len(edits), rank, model.d_model)
    offsets = torch.zeros(len(edits), rank)
    here = torch.zeros(len(edits), dtype=torch.bool)
    for row, edit in enumerate(edits):
        if edit is not None and name in edit.hook_points:
            place = edit.hook_points.index(name)
            vectors[row, : edit.vectors.shape[1]] = edit.vectors[place]
            offsets[row, : edit.vectors.shape[1]] = edit.vectors[place] @ edit.centres[place]
            here[row] = True
    vectors, offsets = vectors.to(model.device, model.dtype), offsets.to(model.device, model.dtype)
    here = here.to(model.device)

    def visit(residual: torch.Tensor) -> torch.Tensor:
        rows, selected = _selected(model, residual, phase, len(edits) if by_row else None)
        selected = selected & here[rows][:, None]
        touched.passes += 1
        touched.tokens += int(selected.sum())
        if kind == "add":
            change = vectors[rows]  # [rows or 1, 1, d_model]
        else:
            basis = vectors[rows]
            change = (offsets[rows][:, None] - residual @ basis.mT) @ basis
        return torch.where(selected[..., None], residual + change, residual)

    return visit


def _selected(
    model: LanguageModel, residual: torch.Tensor, phase: str, n_edits: int | None
) -> tuple[torch.Tensor, Bool[torch.Tensor, "batch position"]]:
    """Which entry of the `n_edits` each row takes (None: all rows take the only one), and which tokens are edited."""
    positions = model.positions
    if positions is None:
        if phase != "all" or n_edits is not None:
            raise EditError("This edit needs to know where the tokens stand. Run the model by LanguageModel.read, logprobs or generate.")
        return torch.zeros(1, dtype=torch.long, device=residual.device), torch.ones(
            residual.shape[:2], dtype=torch.bool, device=residual.device
        )
    if n_edits is None:
        return torch.zeros(1, dtype=torch.long, device=residual.device), positions.in_phase(phase)
    if int(positions.rows.max()) >= n_edits:
        raise EditError(f"There are edits for {n_edits} rows, and the model reads row {int(positions.rows.max())}. Give one entry a row.")
    return positions.rows, positions.in_phase(phase)
