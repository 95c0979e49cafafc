"""`personascope config`: every field of a command's settings, with default and meaning, as YAML to start from."""

from __future__ import annotations

import json

from pydantic_core import PydanticUndefined

from interp.config import StepConfig
from interp.errors import ConfigError


def print_settings(of: str) -> None:
    """Print the settings of `study`, `train` or `capture`; raises `ConfigError` for another name."""
    from interp.studies.config import StudyConfig
    from interp.studies.training import CaptureConfig, TrainingConfig

    known: dict[str, type[StepConfig]] = {"study": StudyConfig, "train": TrainingConfig, "capture": CaptureConfig}
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
