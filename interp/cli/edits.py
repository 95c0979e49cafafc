"""`personascope steer`, `ablate`, `sweep`, `verdict`, `export`, `knockout`: an edit of two models, its result on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from interp.cli.arguments import KnockoutArguments, OnRun
from interp.core.config import StepConfig
from interp.reports.edits_terminal import show_comparison, show_doses, show_export, show_knockout, show_verdict
from interp.reports.knockout_page import write_knockout_page
from interp.studies import edit_export, own_verdict, steering
from interp.studies.edit_export import Exported
from interp.studies.knockout import knockout_on
from interp.studies.knockout_config import PairKnockoutConfig
from interp.studies.opened import StudyRun
from interp.studies.own_verdict import VerdictResult
from interp.studies.steering import Comparison, DoseResponse
from interp.studies.steering_config import VerdictConfig

ConfigT = TypeVar("ConfigT", bound=StepConfig)
ResultT = TypeVar("ResultT", Comparison, DoseResponse, VerdictResult, Exported)


def _command(experiment: Callable[[StudyRun, ConfigT], ResultT], show: Callable[[ResultT], None]) -> Callable[[ConfigT, OnRun], None]:
    """The command of an experiment on a run: open the run, do it, print the result."""

    def command(config: ConfigT, arguments: OnRun) -> None:
        result = experiment(StudyRun(arguments.run, arguments.device, quiet=arguments.as_json), config)
        arguments.report(result.as_json(), partial(show, result))

    return command


steer = _command(steering.steer, show_comparison)
ablate = _command(steering.ablate, show_comparison)
sweep = _command(steering.sweep_doses, show_doses)
export = _command(edit_export.export, show_export)


def verdict(config: VerdictConfig, arguments: OnRun) -> None:
    """The verdict, and whether it carries over."""
    _command(partial(own_verdict.verdict, announce=arguments.announce), show_verdict)(config, arguments)


def knockout(config: PairKnockoutConfig, arguments: KnockoutArguments) -> None:
    """Parts of the weights, alone and left out, and their page."""
    result, folder = knockout_on(arguments.run, config, arguments.out, arguments.device, quiet=arguments.as_json)
    page = write_knockout_page(result.step.folder, folder)
    arguments.report(result.as_json() | {"page": str(page)}, partial(show_knockout, result, page))
