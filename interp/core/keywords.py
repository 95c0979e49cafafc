"""Settings as keyword arguments: what a command takes as options, a function takes as keywords, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from pydantic_core import PydanticUndefined

from interp.core.config import StepConfig, validated

ResultT = TypeVar("ResultT")


def keywords_of(config_class: type[StepConfig]) -> Callable[[Callable[..., ResultT]], Callable[..., ResultT]]:
    """Decorate a function whose parameter `config` is a `config_class`: callers give its fields as keywords instead.

    The signature and the docstring of the result name every field with its type, default and meaning. Raises `ConfigError` for
    keywords that are no fields, are missing or hold wrong values.
    """

    def decorate(function: Callable[..., ResultT]) -> Callable[..., ResultT]:
        own = inspect.signature(function, eval_str=False)

        @wraps(function)
        def call(*args: Any, **keywords: Any) -> ResultT:
            rest = {name: keywords.pop(name) for name in list(keywords) if name in own.parameters and name != "config"}
            config = validated(config_class, keywords, function.__name__)
            return function(*args, config=config, **rest)

        call.__signature__ = own.replace(parameters=_parameters(own, config_class))  # type: ignore[attr-defined]
        fields = "\n".join(f"    {name}: {_first_line(field.description)}" for name, field in config_class.model_fields.items())
        call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nKeywords:\n{fields}"
        return call

    return decorate


def _parameters(own: inspect.Signature, config_class: type[StepConfig]) -> list[inspect.Parameter]:
    """The function's own parameters, then the fields as keywords."""
    positional = [p for p in own.parameters.values() if p.name != "config" and p.kind is not p.KEYWORD_ONLY]
    named = [p for p in own.parameters.values() if p.name != "config" and p.kind is p.KEYWORD_ONLY]
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.is_required()
            else field.get_default(call_default_factory=True)
            if field.default is PydanticUndefined
            else field.default,
            annotation=field.annotation,
        )
        for name, field in config_class.model_fields.items()
    ]
    return [*positional, *fields, *named]


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split())
