"""Read the trait files of the persona-vectors project (Chen et al. 2025, arXiv:2507.21509) as they are published."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from interp.core.config import StepConfig, validated
from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.traits.trait import Elicitation, JudgeSettings, Trait


class Instruction(StepConfig):
    """A positive and a negative system prompt."""

    pos: str
    neg: str


class PersonaVectorsFile(StepConfig):
    """The published form."""

    instruction: list[Instruction] = Field(min_length=1)
    questions: list[str] = Field(min_length=1)
    eval_prompt: str


def read_persona_vectors_trait(path: Path) -> Trait:
    """The trait of one JSON file: pairs are sampled under its system prompts, a model judges by its prompt. Raises `ConfigError`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no trait file: it holds a {type(content).__name__}, not instruction, questions and eval_prompt.")
    file = validated(PersonaVectorsFile, content, str(path))
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.casefold()).strip("_") or "trait"
    return Trait(
        name=name if name[0].isalpha() else f"trait_{name}",
        description=f"The trait '{path.stem}' of a persona-vectors file.",
        shown=path.stem.replace("_", " "),
        not_shown=f"not {path.stem.replace('_', ' ')}",
        judge=JudgeSettings(spec="inspect", prompt=file.eval_prompt),
        elicitation=Elicitation(
            positive=[instruction.pos for instruction in file.instruction],
            negative=[instruction.neg for instruction in file.instruction],
            questions=file.questions,
        ),
    )
