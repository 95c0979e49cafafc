"""`personascope config`: the settings of a command with what they mean and their defaults."""

from __future__ import annotations

import json

import click
from pydantic_core import PydanticUndefined

from interp.cli.arguments import ConfigArguments
from interp.cli.generated import SettingsCommand, load
from interp.cli.main import app
from interp.core.config import StepConfig
from interp.core.errors import ConfigError


def print_defaults(arguments: ConfigArguments) -> None:
    """Print the settings as YAML; raises `ConfigError` for a command that has none."""
    known = _settings(app, "")
    known = {"study": known["run"], "train": known["train sae"]} | known
    if arguments.command not in known:
        raise ConfigError(f"There are no settings of '{arguments.command}'. Choose {', '.join(known)}.")
    settings = load(known[arguments.command])
    if arguments.as_json:
        print(json.dumps(settings.model_json_schema(), indent=2))
        return
    print(f"# {(settings.__doc__ or '').strip()}")
    _print_fields(settings, None, 0)


def _settings(group: click.Group, prefix: str) -> dict[str, str]:
    """Where the settings of each command stand."""
    places: dict[str, str] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            places |= _settings(command, f"{prefix}{name} ")
        elif isinstance(command, SettingsCommand) and command.settings:
            places[f"{prefix}{name}"] = command.settings
    return places


def _print_fields(config: type[StepConfig], values: StepConfig | None, depth: int) -> None:
    """Fields of `config`, with what they are in `values`, or else their defaults."""
    indent = "  " * depth
    for name, field in config.model_fields.items():
        value = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        print(f"{indent}# {' '.join((field.description or '').split())}")
        if isinstance(value, StepConfig):
            print(f"{indent}{name}:")
            _print_fields(type(value), value, depth + 1)
        elif value is PydanticUndefined:
            print(f"{indent}{name}:  # must be given")
        else:
            print(f"{indent}{name}: {json.dumps(value, default=str)}")
