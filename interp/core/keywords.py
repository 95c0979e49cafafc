"""Settings as keyword arguments: what a command takes as options, a function takes as keywords, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from interp.core.config import StepConfig, validated

ResultT = TypeVar("ResultT")


def keywords_of(config_class: type[StepConfig]) -> Callable[[Callable[..., ResultT]], Callable[..., ResultT]]:
    """Decorate a function whose parameter `config` is a `config_class`: callers give its fields as keywords instead.

    The signature and the docstring of the result name every field with its type, default and meaning. Raises `ConfigError` for
    keywords that are no fields, are missing or hold wrong values.
    """
    described = {name: " ".join((field.description or "").split()) for name, field in config_class.model_fields.items()}
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in config_class.model_fields.items()
    ]

    def decorate(function: Callable[..., ResultT]) -> Callable[..., ResultT]:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "config"]
        own_names = {parameter.name for parameter in own}

        @wraps(function)
        def call(*args: Any, **keywords: Any) -> ResultT:
            rest = {name: keywords.pop(name) for name in own_names & keywords.keys()}
            return function(*args, config=validated(config_class, keywords, function.__name__), **rest)

        parameters = sorted([*fields, *own], key=lambda parameter: parameter.kind)
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        lines = "\n".join(f"    {name}: {text}" for name, text in described.items())
        call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nKeywords:\n{lines}"
        return call

    return decorate
