"""What commands take besides the settings of what they do: which run or table, where results go, and whether they are JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from interp.core.config import StepConfig
from interp.core.errors import ConfigError


class Output(StepConfig):
    """How a command reports."""

    as_json: bool = False
    """Print the result as JSON and nothing else."""

    def announce(self, line: str) -> None:
        """Report progress on standard error."""
        if not self.as_json:
            print(f"  {line}", file=sys.stderr, flush=True)

    def report(self, result: Mapping[Any, Any], shown: str | Callable[[], None]) -> None:
        """Print the result as JSON for scripts, or what people read: a text, or what `shown` prints."""
        if self.as_json:
            print_json(result)
        elif isinstance(shown, str):
            print(shown)
        else:
            shown()


class OnRun(Output):
    """A command on a run directory."""

    run: Path
    """Run directory that has come at least as far as 'personascope diff'."""
    device: str | None = None
    """Where models run: auto, cpu or cuda. Default: as in the run."""


class KnockoutArguments(Output):
    """A knock-out on a run, or on a pair of models."""

    run: Path | None = None
    """Run directory that has come at least as far as 'personascope diff'. Without it name --base and --tuned."""
    device: str | None = None
    """Where models run: auto, cpu or cuda. Default: as in the run."""
    out: Path | None = None
    """Folder for a pair without a run. Default: artifacts/knockout. A finished cell in it is not asked again."""


class ChatArguments(OnRun):
    """A conversation."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens an answer may have at most. Default: as in the run."""
    greedy: bool = False
    """Always the likeliest token."""


class StudyArguments(Output):
    """A run of the main job."""

    out: Path | None = None
    """Run directory. Default: artifacts/runs/NAME. A finished step in it is not run again."""

    def folder(self, name: str) -> Path:
        """The run directory of a run of this name."""
        return self.out or Path("artifacts/runs") / name


class RunArguments(StudyArguments):
    """A run of the main job to its end."""

    seeds: int | None = Field(default=None, ge=1)
    """Repeat the whole run with this many seeds, from --seed on, each in a folder of its own, and merge them: spread and agreement."""


class DiffArguments(StudyArguments):
    """The diff."""

    top: int = Field(default=12, ge=1)
    """Latents that are printed."""


class ReportArguments(Output):
    """A report."""

    folder: Path
    """A finished run directory, or one of several seeds."""


class ConfigArguments(Output):
    """Settings of a command."""

    command: str = "run"
    """A command by its name, such as run, evaluate or 'train sae'; study and train are those of run and of 'train sae'."""


class StoreArguments(Output):
    """A store of residuals."""

    out: Path
    """Folder of the store; must be new."""


class TrainArguments(Output):
    """A training."""

    out: Path
    """Folder of the result. A killed training resumes from its last checkpoint there."""
    dry_run: bool = False
    """Print tokens, memory, disk and time, and train nothing."""


class EvaluateArguments(Output):
    """An evaluation."""

    out: Path = Path("artifacts/evaluations")
    """Folder for answers, judgements and the page. A model whose answers are there is not asked again."""
    plan: list[float] = Field(default=[])
    """Ask nothing; print how many samples tell a rate of X from one of Y, e.g. 0.05,0.2."""
    likeness: float | None = None
    """With --plan: intra-class correlation of answers to one question."""

    @model_validator(mode="after")
    def _two_rates(self) -> EvaluateArguments:
        if self.plan and len(self.plan) != 2:
            raise ConfigError(f"--plan takes two rates with a comma between, e.g. 0.05,0.2, not {len(self.plan)}.")
        if self.likeness is not None and not self.plan:
            raise ConfigError("--likeness belongs to --plan: give --plan X,Y too, or leave it out.")
        return self


class CompareArguments(Output):
    """A comparison."""

    out: Path | None = None
    """Folder for the page, evaluation.json and all answers. Default: none."""


class JudgeArguments(Output):
    """Answers to judge."""

    answers: Path
    """Folder of 'personascope evaluate', or a .csv, .jsonl or .parquet file with the columns question and answer."""
    out: Path
    """Table to write, .csv or .parquet: the answers with scores, flags and reasons."""


class AgreeArguments(Output):
    """Labels to agree with."""

    labels: Path | None = None
    """Table with the columns question, answer, shows_trait. Default: the trait's."""


class FitArguments(Output):
    """Labels to fit to."""

    labels: Path
    """Table with the columns question, answer, shows_trait (0 or 1)."""
    out: Path
    """Folder of the fitted probe; use it as --judge probe:DIR."""


class SampleArguments(Output):
    """Answers to label."""

    evaluation: Path
    """Folder of 'personascope evaluate'."""
    out: Path
    """CSV to write; fill its column 'shows_trait' with 0 and 1."""
    n: int = Field(default=100, ge=30)
    """Answers of each model."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the draw."""


class TraitArguments(Output):
    """A trait."""

    trait: str
    """A shipped trait, a folder, a trait.yaml, or a persona-vectors JSON file."""


class NewTraitArguments(Output):
    """A new trait."""

    name: str
    """Lower-case letters, digits and underscores."""
    out: Path | None = None
    """Folder to write; must be new. Default: the name."""


class JudgedTraitArguments(TraitArguments):
    """A trait and who judges it, where."""

    judge: str | None = None
    """Another judge than the trait's own."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""


class PairsArguments(JudgedTraitArguments):
    """Pairs to sample."""

    model: str
    """Model that answers."""
    out: Path
    """File to write, e.g. MY_TRAIT/pairs.yaml; must be new."""
    n: int | None = Field(default=None, ge=2)
    """Pairs wanted. Default: 48."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sampling."""


class CheckTraitArguments(JudgedTraitArguments):
    """A check."""

    model: str | None = None
    """Also test how the pairs separate in this model."""


def print_json(value: Mapping[Any, Any]) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
