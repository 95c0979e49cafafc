"""Apply edits to a running model: `with edited(model, edit): …`, different edits in every row with `edited_rows`, or `generate`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, overload

import torch

from interp.core.config import validated
from interp.core.errors import EditError, EditWarning
from interp.interventions.edits import Edit
from interp.interventions.groups import Group
from interp.models import generation
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig


@contextmanager
def edited(model: LanguageModel, *edits: Edit) -> Iterator[LanguageModel]:
    """Everything `model` does inside is edited, by all `edits` in order.

    Raises `HookPointError` for a place the model lacks, and on leaving `EditError` for an edit that no token was read for.
    Warns with `EditWarning` on leaving of an edit that changed none of its tokens, and when the model was not run at all.
    """
    with _applied(model, [Group(model, [edit]) for edit in edits]):
        yield model


@contextmanager
def edited_rows(model: LanguageModel, edits: Sequence[Edit | Sequence[Edit] | None]) -> Iterator[LanguageModel]:
    """Row i of the next call to `generate`, `read` or `logprobs` is edited by `edits[i]`: by one, by several in order, or by none.

    Raises and warns as `edited` does, of every row's edits; raises `EditError` when another `edited_rows` is active or the model
    reads a row beyond the list.
    """
    if model.prompt_signatures is not None:
        raise EditError("edited_rows cannot be nested. Put both edits of a row into one call.")
    rows = [(entry,) if isinstance(entry, Edit) else tuple(entry or ()) for entry in edits]
    if not any(rows):
        raise EditError("No row has an edit, so nothing would change. Call the model without edited_rows.")
    groups = _grouped(model, rows)
    model.prompt_signatures = ["+".join(edit.key for edit in row if edit.phase != "response") or None for row in rows]
    try:
        with _applied(model, groups):
            yield model
    finally:
        model.prompt_signatures = None


def _grouped(model: LanguageModel, rows: Sequence[Sequence[Edit]]) -> list[Group]:
    """The first edits of all rows, then the second ones, and so on; alike ones together, for one computation does for them."""
    groups = []
    for place in range(max(map(len, rows))):
        edits = {row: own[place] for row, own in enumerate(rows) if place < len(own)}
        for likeness in dict.fromkeys(map(_likeness, edits.values())):
            alike = {row: edit for row, edit in edits.items() if _likeness(edit) == likeness}
            unique = {edit.key: edit for edit in alike.values()}
            number = {key: n for n, key in enumerate(unique)}
            edit_of_row = [number[alike[row].key] if row in alike else len(unique) for row in range(len(rows))]
            groups.append(Group(model, list(unique.values()), edit_of_row))
    return groups


def _likeness(edit: Edit) -> tuple[Any, ...]:
    """Edits with the same can be computed together."""
    gate = edit.gate and (edit.gate.latent, edit.gate.above, edit.gate.dictionary.content)
    return edit.kind, edit.phase, edit.sinks, gate, edit.latents and edit.latents.dictionary.content


@contextmanager
def _applied(model: LanguageModel, groups: Sequence[Group]) -> Iterator[None]:
    """Hooks of all groups, in order at each place; on leaving without an error, what they have seen is judged."""
    passes = 0

    def begin(residual: torch.Tensor) -> None:
        nonlocal passes
        passes += 1
        for group in groups:
            group.begin(residual)

    telling = sum(group.sinks != "edit" for group in groups)
    model.sinks_wanted += telling
    try:
        with ExitStack() as hooks:
            hooks.enter_context(model.attach("blocks.0.hook_resid_pre", begin))
            for group in groups:
                for name, visit in group.visits():
                    hooks.enter_context(model.attach(name, visit))
            yield
    finally:
        model.sinks_wanted -= telling
    for group in groups if passes else ():
        group.judge()
    if groups and not passes:
        warnings.warn(
            "The model was not run inside, so nothing was edited. Run the model that the edit was applied to.", EditWarning, stacklevel=5
        )


@overload
def generate(model: LanguageModel, prompts: str | Chat, edits: Edit | Sequence[Edit] = (), seed: int = 0, **sampling: Any) -> str: ...
@overload
def generate(
    model: LanguageModel, prompts: Sequence[str | Chat], edits: Edit | Sequence[Edit] = (), seed: int = 0, **sampling: Any
) -> list[str]: ...
def generate(
    model: LanguageModel,
    prompts: str | Chat | Sequence[str | Chat],
    edits: Edit | Sequence[Edit] = (),
    seed: int = 0,
    **sampling: Any,
) -> str | list[str]:
    """The model's answer to a question or chat, or to each of several, with `edits` applied while it answers.

    `sampling` are fields of `SamplingConfig`: max_new_tokens, temperature, … Raises `ConfigError` for others.
    """
    several = [prompts] if isinstance(prompts, str | Chat) else list(prompts)
    chats = [prompt if isinstance(prompt, Chat) else Chat.ask(prompt) for prompt in several]
    config = validated(SamplingConfig, sampling, "generate")
    with edited(model, *([edits] if isinstance(edits, Edit) else edits)):
        answers = generation.generate(model, chats, config, seed)
    return answers[0] if isinstance(prompts, str | Chat) else answers
