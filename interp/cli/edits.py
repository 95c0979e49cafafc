"""`personascope steer`, `ablate`, `sweep`, `verdict` and `export`: an edit of the opened run's models, its result on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from interp.cli.arguments import OnRun, print_json
from interp.reports.edits_terminal import show_comparison, show_doses, show_export, show_verdict
from interp.studies import edit_export, own_verdict, steering
from interp.studies.edit_export import Exported
from interp.studies.opened import OpenRun
from interp.studies.own_verdict import VerdictResult
from interp.studies.steering import Comparison, DoseResponse
from interp.studies.steering_config import AblateConfig, ExportConfig, SteerConfig, SweepConfig, VerdictConfig

Result = TypeVar("Result", Comparison, DoseResponse, VerdictResult, Exported)


def steer(config: SteerConfig, arguments: OnRun) -> None:
    """Base and steered base."""
    _report(steering.steer(_open(arguments), config), arguments, show_comparison)


def ablate(config: AblateConfig, arguments: OnRun) -> None:
    """Tuned and ablated tuned model."""
    _report(steering.ablate(_open(arguments), config), arguments, show_comparison)


def sweep(config: SweepConfig, arguments: OnRun) -> None:
    """Dose-response on the base."""
    _report(steering.sweep_doses(_open(arguments), config), arguments, show_doses)


def verdict(config: VerdictConfig, arguments: OnRun) -> None:
    """The verdict, and whether it carries over."""
    _report(own_verdict.verdict(_open(arguments), config, arguments.announce), arguments, show_verdict)


def export(config: ExportConfig, arguments: OnRun) -> None:
    """An edited model on disk."""
    _report(edit_export.export(_open(arguments), config), arguments, show_export)


def _open(arguments: OnRun) -> OpenRun:
    return OpenRun(arguments.run, arguments.device, quiet=arguments.as_json)


def _report(result: Result, arguments: OnRun, show: Callable[[Result], None]) -> None:
    if arguments.as_json:
        print_json(result.as_json())
    else:
        show(result)
