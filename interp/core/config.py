"""Typed configuration: one pydantic model a step, the same object in YAML, on the command line and in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from interp.core.errors import ConfigError, did_you_mean, reason_of
from interp.core.files import read_text

ConfigT = TypeVar("ConfigT", bound="StepConfig")


class StepConfig(BaseModel):
    """Base of every step's configuration: frozen; a field that does not exist is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises `ConfigError` naming file and line when it is missing or broken."""
    content = read_any_yaml(path)
    if not isinstance(content, dict):
        what = "but is empty" if content is None else f"not {type(content).__name__}"
        raise ConfigError(f"{path} must hold a YAML mapping (key: value), {what}.")
    return content


def read_any_yaml(path: Path) -> Any:
    """Read whatever a YAML file holds; raises as `read_yaml` does."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Give the path of an existing YAML file.")
    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or reason_of(error)
        raise ConfigError(f"{path}{where} is not valid YAML: {problem}. Correct that line.") from error


def validated(config_class: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """`values` as `config_class`; raises `ConfigError` naming every bad field and `source`."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        problems, hints = [], ""
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"])
            if item["type"] == "value_error" and not field:
                problems.append(item["msg"].removeprefix("Value error, "))
            elif item["type"] == "extra_forbidden":
                problems.append(f"unknown field '{field}'")
                hints += did_you_mean(str(item["loc"][-1]), _fields_at(config_class, item["loc"][:-1]))
            elif item["type"] == "missing":
                problems.append(f"{field} must be given")
            else:
                problems.append(f"{field}: {item['msg']} (got {item['input']!r:.80})")
        misspelt = any(item["type"] in ("extra_forbidden", "missing") for item in error.errors())
        known = f" Fields at the top are: {', '.join(config_class.model_fields)}." if misspelt else ""
        raise ConfigError(f"{source}: {'; '.join(problems)}.{hints}{known}") from error


def _fields_at(config_class: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The fields of the section at `path`, positions in lists left out; none where its type is not one section."""
    for part in path:
        if isinstance(part, str):
            annotation = config_class.model_fields[part].annotation if part in config_class.model_fields else None
            sections = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)]
            if len(sections) != 1:
                return []
            config_class = sections[0]
    return list(config_class.model_fields)


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`values` with `options` (by dotted path: `section.field`) laid over them, then `section.field=value` texts, whose values are YAML."""
    settings = dict(options or {})
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path:
            raise ConfigError(f"--set takes section.field=value, not '{override}'.")
        try:
            settings[path] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--set {path}: '{text}' is not a YAML value.") from error
    result = deepcopy(dict(values))
    for path, value in settings.items():
        target = result
        *parents, leaf = path.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {path}: '{parent}' is a value, not a section.")
        target[leaf] = value
    return result
