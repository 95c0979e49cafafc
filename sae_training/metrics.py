"""Where a training's metrics go besides its own parquet table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from interp.core.errors import TrainingError


class Callback(Protocol):
    """Gets the metrics of every logged step, and hears of the end."""

    def row(self, dictionary: str, metrics: Mapping[str, float]) -> None:
        """One logged step of one dictionary; `metrics["step"]` counts from 1."""

    def end(self, dictionary: str, summary: Mapping[str, Any]) -> None:
        """A dictionary is saved."""


class Tracker:
    """Sends metrics to Weights & Biases or to trackio, which share an interface: `Tracker("wandb", project="…")`."""

    def __init__(self, package: str, project: str, **options: Any) -> None:
        """`options` go to the package's `init`. Raises `TrainingError` where the package is not installed."""
        if package not in ("wandb", "trackio"):
            raise TrainingError(f"There is no tracker '{package}'. Choose wandb or trackio.")
        try:
            self.tracker: Any = importlib.import_module(package)
        except ImportError as error:
            raise TrainingError(f"{package} is not installed. Install it: pip install 'personascope[tracking]'.") from error
        self.tracker.init(project=project, **options)

    def row(self, dictionary: str, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        prefix = f"{dictionary}/" if dictionary else ""
        self.tracker.log({f"{prefix}{name}": value for name, value in metrics.items() if name != "step"}, step=int(metrics["step"]))

    def end(self, dictionary: str, summary: Mapping[str, Any]) -> None:
        """See `Callback`."""
        prefix = f"{dictionary}/" if dictionary else ""
        self.tracker.log({f"{prefix}final_{name}": value for name, value in summary.items() if isinstance(value, int | float)})
