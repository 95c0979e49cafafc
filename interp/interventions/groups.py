"""Edits of one kind, phase and condition, computed together: a table of the distinct ones, and for each row its place in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int

from interp.core.errors import EditError, EditWarning
from interp.dictionaries.sae import SAE
from interp.interventions.edits import Edit, Gate
from interp.models.language_model import LanguageModel

Visit = Callable[[torch.Tensor], torch.Tensor | None]
SINK_WORDS = {"spare": " (attention sinks left alone)", "edit": "", "only": " and an attention sink"}
FREE_TO_LOOK = ("cpu",)
"""Devices whose values are known at once; on others to look at one is to wait for all that was asked before."""


class LatentReader:
    """Activations of chosen latents by the SAE's encoder.

    TopK latents compete with all others, so all are encoded; of the other architectures only the chosen columns are.
    """

    def __init__(self, sae: SAE, latents: Sequence[int], device: torch.device) -> None:
        self.latents = list(latents) if sae.k is not None else None
        self.sae = (sae if self.latents else sae.some_latents(torch.tensor(latents, device=sae.w_enc.device))).to(device)

    def __call__(self, residuals: Float[torch.Tensor, "tokens d_in"]) -> Float[torch.Tensor, "tokens n"]:
        """Activations in float32; raises `DictionaryError` for values that are not finite."""
        codes = self.sae.encode(residuals)
        return torch.stack([codes.column(latent) for latent in self.latents], dim=1) if self.latents else codes.dense()


class Group:
    """Edits that come at the same place in the order of their rows, at most one of them a row.

    Each adds weighted vectors, `x + Σ_j c_j v_j`. Vectors of the distinct edits stand in tables with a row of zeros at the
    end, for the rows that have none; an edit that is not at some hook point has zeros there too.
    """

    def __init__(self, model: LanguageModel, edits: list[Edit], edit_of_row: list[int] | None = None) -> None:
        """`edit_of_row` has for each row the place of its edit in `edits`, or their number; None: all rows have the only one."""
        self.model = model
        self.edits = edits
        self.kind, self.phase, self.gate, self.sinks = edits[0].kind, edits[0].phase, edits[0].gate, edits[0].sinks
        self.names = sorted({name for edit in edits for name in edit.hook_points}, key=model.hook_point)
        for edit in edits:
            edit.check_width(model)
        self.edit_of_row = None if edit_of_row is None else torch.tensor(edit_of_row, device=model.device)
        # Tokens of each edit, counted on the device: in its phase, with the gate open, with latents that were changed.
        self.seen, self.opened, self.changed = torch.zeros(3, len(edits) + 1, dtype=torch.long, device=model.device)
        self.reached: set[str] = set()
        self.rows: Int[torch.Tensor, " batch"] | None = None
        self.index: Int[torch.Tensor, " batch"] | None = None
        self.tables: list[torch.Tensor] = []
        self.gathered: dict[int, torch.Tensor] = {}

    def begin(self, residual: torch.Tensor) -> None:
        """A pass begins: which of its tokens are in the phase, and whose edit has each row."""
        positions = self.model.positions
        if positions is None:
            if self.phase != "all" or self.sinks != "edit" or self.edit_of_row is not None:
                raise EditError(
                    "This edit needs to know where the tokens stand. Run the model by LanguageModel.read, logprobs or generate."
                )
            self.seen[0] += residual.shape[0] * residual.shape[1]
            self._act_at(None, residual.dtype)
            return
        selected = positions.in_phase(self.phase, self.sinks)
        if self.edit_of_row is None:
            self.seen[0] += selected.sum()
        else:
            index = self._index_of(positions.rows, self.edit_of_row)
            selected = selected & (index < len(self.edits))[:, None]  # nothing need be computed for rows without
            self.seen.index_add_(0, index, selected.sum(1))
        self._act_at(selected, residual.dtype)

    def _index_of(self, rows: Int[torch.Tensor, " batch"], edit_of_row: Int[torch.Tensor, " rows"]) -> Int[torch.Tensor, " batch"]:
        """The place of each row's edit; looked up again when other rows come, in decoding not before one is finished."""
        if rows is not self.rows or self.index is None:
            last = int(rows.max())
            if last >= len(edit_of_row):
                raise EditError(f"There are edits for {len(edit_of_row)} rows, and the model reads row {last}. Give one entry a row.")
            self.rows, self.index = rows, edit_of_row[rows]
            self.gathered.clear()
        return self.index

    def _act_at(self, selected: Bool[torch.Tensor, "batch position"] | None, dtype: torch.dtype) -> None:
        """Edit the selected tokens of this pass; None: all."""
        self.idle = False
        if selected is not None and selected.device.type in FREE_TO_LOOK:
            count = int(selected.sum())
            self.idle = not count
            selected = selected if count < selected.numel() else None
        self.acting = selected
        self.weight = None if selected is None else selected[..., None].to(dtype)

    def visits(self) -> Iterator[tuple[str, Visit]]:
        """Hook points and what is to be done there, in the order in which it is to be registered."""
        if self.gate is not None:
            yield self.gate.dictionary.hook_point, self._gate_keeper(self.gate)
        for name in self.names:
            yield name, self._visitor(name)

    def _visitor(self, name: str) -> Visit:
        change = self._setter(name) if self.kind == "set_latents" else self._linear(name)

        def visit(residual: torch.Tensor) -> torch.Tensor | None:
            self.reached.add(name)
            return None if self.idle else change(residual)

        return visit

    def _table(self, name: str, of_edit: Callable[[Edit, int], torch.Tensor]) -> torch.Tensor:
        """`of_edit(edit, place of the hook point)` for all edits, filled up with zeros to the largest, in the model's dtype."""
        entries = [of_edit(edit, edit.hook_points.index(name)) if name in edit.hook_points else None for edit in self.edits]
        longest = max((entry for entry in entries if entry is not None), key=len)
        table = torch.zeros(len(entries) + 1, *longest.shape)
        for row, entry in enumerate(entries):
            if entry is not None:
                table[row, : len(entry)] = entry
        table = table.to(self.model.device, self.model.dtype)
        for other in self.tables:  # a projection is the same everywhere: one table, and its rows gathered once
            if torch.equal(other, table):
                return other
        self.tables.append(table)
        return table

    def _of_rows(self, table: torch.Tensor) -> torch.Tensor:
        """Each row's entry of a table; where all rows have the only edit, that one."""
        if self.index is None:
            return table[0]
        if id(table) not in self.gathered:
            self.gathered[id(table)] = table[self.index]
        return self.gathered[id(table)]

    def _linear(self, name: str) -> Visit:
        """`add` and `project_out`: the vectors themselves, or as much of each as takes the residual to the centre along it."""
        vectors = self._table(name, lambda edit, place: edit.vectors[place])
        centres = None
        if self.kind == "project_out":
            centres = self._table(name, lambda edit, place: edit.vectors[place] @ edit.centres[place])[:, None]

        def change(residual: torch.Tensor) -> torch.Tensor:
            basis = self._of_rows(vectors)  # [n, d_model] or [batch, n, d_model]; of `add`, n is 1
            if centres is None:
                return residual + basis if self.weight is None else torch.addcmul(residual, self.weight, basis)
            coordinates = self._of_rows(centres) - residual @ basis.mT
            return residual + (coordinates if self.weight is None else coordinates * self.weight) @ basis

        return change

    def _setter(self, name: str) -> Visit:
        settings = [edit.latents for edit in self.edits if edit.latents is not None]
        dictionary = settings[0].dictionary
        latents = sorted({latent for setting in settings for latent in setting.latents})
        reader = LatentReader(dictionary, latents, self.model.device)
        rows = dictionary.w_dec[latents].float().to(self.model.device)
        targets, meant = torch.zeros(2, len(self.edits) + 1, len(latents))
        for row, (edit, setting) in enumerate(zip(self.edits, settings, strict=True)):
            columns = [latents.index(latent) for latent in setting.latents]
            targets[row, columns] = setting.values
            meant[row, columns] = float(name in edit.hook_points)
        targets, meant = targets.to(self.model.device), meant.to(self.model.device)

        def change(residual: torch.Tensor) -> torch.Tensor | None:
            tokens, edit = self._tokens(residual)
            if not len(tokens):
                return None
            coefficients = (targets[edit] - reader(tokens)) * meant[edit]
            self.changed.index_add_(0, edit, (coefficients != 0).any(-1).long())
            changed = (tokens + coefficients @ rows).to(residual.dtype)
            if self.acting is None:
                return changed.view_as(residual)
            result = residual.clone()
            result[self.acting] = changed
            return result

        return change

    def _gate_keeper(self, gate: Gate) -> Visit:
        reader = LatentReader(gate.dictionary, [gate.latent], self.model.device)

        def visit(residual: torch.Tensor) -> None:
            if self.idle:
                return
            tokens, edit = self._tokens(residual)
            if not len(tokens):
                return
            open_ = reader(tokens)[:, 0] > gate.above
            self.opened.index_add_(0, edit, open_.long())
            acting = torch.ones_like(residual[..., 0], dtype=torch.bool) if self.acting is None else self.acting
            self._act_at(acting.masked_scatter(acting, open_), residual.dtype)

        return visit

    def _tokens(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals of the tokens to be edited, and the place of each one's edit."""
        if torch.is_grad_enabled() and residual.requires_grad:
            raise EditError("No gradient goes through an edit that reads latents. Run the model without gradients, or use project_out.")
        index = torch.zeros_like(residual[:, 0, 0], dtype=torch.long) if self.index is None else self.index
        edit = repeat(index, "batch -> batch position", position=residual.shape[1])
        if self.acting is not None:
            return residual[self.acting], edit[self.acting]
        return rearrange(residual, "batch position d_model -> (batch position) d_model"), rearrange(
            edit, "batch position -> (batch position)"
        )

    def judge(self) -> None:
        """Raise for an edit that no token was read for, warn of one that changed no token."""
        counts = torch.stack([self.seen, self.opened, self.changed]).T.tolist()
        for edit, (seen, opened, changed) in zip(self.edits, counts[:-1], strict=True):
            name = f"The edit '{edit.name}'"
            if not self.reached.intersection(edit.hook_points):
                raise EditError(f"{name} touched no token: the model was not read as far as {edit.hook_points[0]}. Edit an earlier place.")
            if not seen:
                rows = "" if self.edit_of_row is None else " in a row that was read"
                raise EditError(
                    f"{name} touched no token: none was in its phase '{edit.phase}'{rows}{SINK_WORDS[edit.sinks]}. "
                    "Use another phase, or chats that have it."
                )
            if edit.gate is not None and not opened:
                reason = f"latent {edit.gate.latent} never exceeded {edit.gate.above:g} at {edit.gate.dictionary.hook_point}"
            elif edit.latents is not None and not changed:
                reason = "its latents had their values already" if edit.latents.values.any() else "its latents never fired"
            else:
                continue
            warnings.warn(f"{name} changed none of {seen} tokens: {reason}.", EditWarning, stacklevel=6)  # the caller's `with`
