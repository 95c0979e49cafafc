"""Settings on the command line: file, options and --set in one; and `personascope config`, which prints them with what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from interp.core.config import StepConfig, read_yaml, with_overrides
from interp.core.errors import ConfigError


def gathered(options: dict[str, Any], file: Path | None, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """File, then options, then --set, later ones winning; and what to call the whole in an error.

    An option that is None or empty was not given; one with dots in its name belongs into a section.
    """
    values = read_yaml(file) if file else {}
    given = {name: value for name, value in options.items() if value is not None and value != []}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if "." not in name}
    nested = [f"{name}={json.dumps(value)}" for name, value in given.items() if "." in name]
    return with_overrides(values | plain, nested + overrides), str(file) if file else "options"


def print_settings(of: str) -> None:
    """Print the settings of `study`, `train`, `capture`, `evaluate` or `compare`; raises `ConfigError` for another name."""
    from interp.studies.evaluation_config import CompareConfig, EvaluateConfig
    from interp.studies.persona.config import StudyConfig
    from interp.studies.training_config import CaptureConfig, TrainingConfig

    known: dict[str, type[StepConfig]] = {
        "study": StudyConfig,
        "train": TrainingConfig,
        "capture": CaptureConfig,
        "evaluate": EvaluateConfig,
        "compare": CompareConfig,
    }
    if of not in known:
        raise ConfigError(f"There are no settings of '{of}'. Choose {', '.join(known)}.")
    print(f"# {(known[of].__doc__ or '').strip()}")
    _print_fields(known[of], None, 0)


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
