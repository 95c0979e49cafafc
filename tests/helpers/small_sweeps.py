"""Questions, edits and interruptions for the tests of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.causality.sweep import Condition
from interp.evaluation.questions import Question
from interp.interventions.edits import Edit, add, project_out, random_directions
from interp.models.language_model import LanguageModel
from tests.helpers.tiny import D_MODEL, QUESTIONS

HOOK = "blocks.1.hook_resid_post"


def asked(n: int = 4) -> list[Question]:
    texts = [*QUESTIONS, *(f"{question} Tell me." for question in QUESTIONS)]
    return [Question(id=f"q{i}", group="g", split="selection", text=text) for i, text in enumerate(texts[:n])]


def edits() -> list[Edit]:
    rows = random_directions(3, D_MODEL, 0)
    centres = {name: torch.linspace(-1, 1, D_MODEL) for name in ("blocks.0.hook_resid_post", HOOK)}
    return [
        add(rows[0], {HOOK: 20.0}, 1.0, label="add"),
        project_out(rows[1:], centres, label="remove"),
        add(rows[1], {HOOK: 20.0}, 0.5, "all"),
    ]


def steered(n: int) -> list[Condition]:
    """Conditions that leave the prompt as it is."""
    return [Condition(f"add {i}", add(row, {HOOK: 20.0}, 1.0)) for i, row in enumerate(random_directions(n, D_MODEL, 5))]


@contextmanager
def passes(model: LanguageModel) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every forward pass inside, but those that look for attention sinks."""
    shapes: list[tuple[int, int]] = []

    def note(_module: Any, args: Any) -> None:
        if model.hooks_act:
            shapes.append(tuple(args[0].shape[:2]))

    handle = model.blocks[0].register_forward_pre_hook(note)
    try:
        yield shapes
    finally:
        handle.remove()


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


class Killed(BaseException):
    pass


def kill_after(n: int) -> Callable[[int], None]:
    """A progress callback that dies when `n` batches are done."""
    seen: list[int] = []

    def advance(rows: int) -> None:
        seen.append(rows)
        if len(seen) == n:
            raise Killed

    return advance
