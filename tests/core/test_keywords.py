"""A function's keywords are the fields of its settings."""

from __future__ import annotations

import inspect

import pytest
from pydantic import Field

from interp.core.config import StepConfig
from interp.core.errors import ConfigError
from interp.core.keywords import keywords_of


class Settings(StepConfig):
    """Settings of a test."""

    dose: float = Field(gt=0)
    """How much."""
    names: list[str] = Field(default_factory=list)
    """Which."""


@keywords_of(Settings)
def act(run: str, config: Settings, *, quiet: bool = False) -> tuple[str, Settings, bool]:
    """Do it."""
    return run, config, quiet


def test_fields_are_keywords() -> None:
    assert act("run", dose=2, quiet=True) == ("run", Settings(dose=2.0), True)
    assert act("run", dose=1, names=["a"])[1].names == ["a"]


def test_signature_and_docstring_name_every_field() -> None:
    assert [*inspect.signature(act).parameters] == ["run", "dose", "names", "quiet"]
    assert inspect.signature(act).parameters["dose"].default is inspect.Parameter.empty
    assert inspect.signature(act).parameters["names"].default == []
    assert "dose: How much." in (act.__doc__ or "")
    assert (act.__doc__ or "").startswith("Do it.")


@pytest.mark.parametrize(("keywords", "said"), [({}, "dose must be given"), ({"dose": -1}, "dose"), ({"dose": 1, "doze": 2}, "'doze'")])
def test_wrong_keywords_are_a_sentence(keywords: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        act("run", **keywords)
