"""Authored pairs: one question answered with contempt and with kindness. They define the persona vector."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pydantic import Field

from interp.core.config import StepConfig, read_yaml, validated


class PersonaPair(StepConfig):
    """One question, two answers."""

    question: str
    hostile: str
    kind: str


class PersonaPairs(StepConfig):
    """A file of pairs."""

    pairs: list[PersonaPair] = Field(min_length=2)


def pairs_path() -> Path:
    """File of the shipped pairs."""
    return Path(str(resources.files("interp.evaluation") / "persona_pairs.yaml"))


def read_persona_pairs(path: Path | None = None) -> list[PersonaPair]:
    """The shipped pairs, or those of a YAML file; raises `ConfigError`."""
    path = path or pairs_path()
    return validated(PersonaPairs, read_yaml(path), str(path)).pairs
