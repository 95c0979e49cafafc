"""A run opened in a notebook: what it says, and every experiment on it, with the settings of the commands as keywords."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from interp.core.errors import ArtifactError
from interp.core.files import read_json
from interp.core.keywords import keywords_of
from interp.dictionaries.dictionary import Dictionary
from interp.explanation.token_latents import TokenLatents, token_latents
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.studies import comparing, edit_export, evaluating, own_verdict, steering, training
from interp.studies import knockout as knocking_out
from interp.studies.evaluation import Evaluation
from interp.studies.evaluation_config import CompareConfig, EvaluateConfig
from interp.studies.knockout_config import KnockoutConfig, PairKnockoutConfig
from interp.studies.opened import StudyRun
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.seeds import SeedsResult, run_seeds
from interp.studies.persona.study import run_study
from interp.studies.steering_config import AblateConfig, ExportConfig, SteerConfig, SweepConfig, VerdictConfig
from interp.studies.training_config import TrainingConfig
from sae_training.results import Trained

RUNS = Path("artifacts/runs")
SHOWN_LATENTS = 8
ResultT = TypeVar("ResultT")


class Run(StudyRun):
    """A run directory that has come at least as far as its diff. Models are opened when they are first needed."""

    steer = keywords_of(SteerConfig)(steering.steer)
    ablate = keywords_of(AblateConfig)(steering.ablate)
    sweep = keywords_of(SweepConfig)(steering.sweep_doses)
    verdict = keywords_of(VerdictConfig)(own_verdict.verdict)
    export = keywords_of(ExportConfig)(edit_export.export)
    knockout = keywords_of(KnockoutConfig)(knocking_out.knockout)

    @property
    def base(self) -> LanguageModel:
        """The base model."""
        return self.context.base

    @property
    def tuned(self) -> LanguageModel:
        """The tuned model."""
        return self.context.tuned

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary, an SAE or a crosscoder."""
        return self.context.dictionary

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says; raises `ArtifactError` where the run stopped before its verdict."""
        path = self.run.root / "summary.json"
        if not path.is_file():
            raise ArtifactError(f"{self.run.root} has no summary yet. Finish it: run.bring_to('judges'), or 'personascope run'.")
        summary: dict[str, Any] = read_json(path)
        return summary

    @property
    def changed_latents(self) -> pd.DataFrame:
        """The latents whose mean activation went up most, with interval and q-value: the head of `latents`."""
        columns = ["latent", "mean_diff", "mean_diff_low", "mean_diff_high", "q_value", "mean_base", "mean_tuned"]
        table = self.latents.sort_values("mean_diff", ascending=False, kind="stable", ignore_index=True)
        return table[columns].head(SHOWN_LATENTS)

    def token_latents(self, text: str | Chat, tuned: bool = True) -> TokenLatents:
        """Latent activations of a text, aligned to its tokens, as the tuned model reads it, or the base."""
        return token_latents(self.dictionary, [self.base, self.tuned], text, which=int(tuned))

    def __repr__(self) -> str:
        said = f"{self.summary['verdict']}: {self.summary['finding']}" if self._finished else self.changed_latents.to_string(index=False)
        return f"Run {self.run.root} ({self.config.base})\n{said}"

    def _repr_html_(self) -> str:
        """The verdict with its rates, or the latents that changed most."""
        title = f"<p><b>{html.escape(str(self.run.root))}</b> · {html.escape(self.config.base)}</p>"
        if not self._finished:
            return f"{title}{self.changed_latents.to_html(index=False, float_format='{:.3g}'.format)}"
        rates = pd.DataFrame(self.summary["rates"]).T[["rate", "low", "high", "n", "coherence"]]
        said = f"<p><b>{self.summary['verdict']}</b>: {html.escape(self.summary['finding'])}</p>"
        return f"{title}{said}{rates.to_html(float_format='{:.2f}'.format)}"

    @property
    def _finished(self) -> bool:
        return self.has("verdict") and (self.run.root / "summary.json").is_file()


def load_run(folder: str | Path, device: str | None = None) -> Run:
    """Open a run directory; `device` is where its models run, by default as the run's settings say. Raises `ArtifactError`."""
    return Run(folder, device)


def _study(config: StudyConfig, out: str | Path | None, quiet: bool, until: str | None) -> Run:
    folder = Path(out) if out is not None else RUNS / config.name
    announce: Callable[[str], None] = (lambda line: None) if quiet else print
    run_study(config, folder, quiet, announce, until=until)
    return Run(folder, quiet=quiet)


@keywords_of(StudyConfig)
def find_persona(config: StudyConfig, *, out: str | Path | None = None, quiet: bool = False) -> Run:
    """The main job on a pair of models, resumed where it stopped; `out` is the run directory, artifacts/runs/NAME by default."""
    return _study(config, out, quiet, None)


@keywords_of(StudyConfig)
def find_persona_over_seeds(config: StudyConfig, *, seeds: int, out: str | Path | None = None, quiet: bool = False) -> SeedsResult:
    """`find_persona` with the seeds `seed`, `seed` + 1, …, each in a run directory of its own below `out`, and one summary of all."""
    announce: Callable[[str], None] = (lambda line: None) if quiet else print
    return run_seeds(config, seeds, RUNS / config.name if out is None else Path(out), quiet, announce)


@keywords_of(StudyConfig)
def diff(config: StudyConfig, *, out: str | Path | None = None, quiet: bool = False) -> Run:
    """What changed between two models: the main job up to its diff, from which `find_persona` continues."""
    return _study(config, out, quiet, "fit")


@keywords_of(PairKnockoutConfig)
def knockout(
    run: str | Path | Run | None = None, *, config: PairKnockoutConfig, out: str | Path | None = None, quiet: bool = False
) -> knocking_out.Knockout:
    """Which part of the weights: parts of the fine-tune alone and left out, of a run or of a pair, whose results are kept in `out`."""
    opened = Path(run) if isinstance(run, str) else run
    return knocking_out.knockout_on(opened, config, None if out is None else Path(out), quiet=quiet)[0]


@keywords_of(EvaluateConfig)
def evaluate(config: EvaluateConfig, *, out: str | Path = "artifacts/evaluations/notebook", quiet: bool = False) -> Evaluation:
    """Ask models a question set, judge the answers, compare; what is in `out` already is not asked again."""
    return evaluating.evaluate(config, Path(out), quiet)


@keywords_of(CompareConfig)
def compare(config: CompareConfig) -> Evaluation:
    """Evaluations, or tables of published scores, side by side."""
    return comparing.compare(config)


@keywords_of(TrainingConfig)
def train_sae(config: TrainingConfig, *, out: str | Path, quiet: bool = False) -> dict[str, Trained]:
    """Train dictionaries on a store, or on models and text; one result for each combination that was asked for."""
    return training.train_dictionaries(config, Path(out), quiet)


def _on_folder(experiment: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """An experiment of `Run` as a function of an opened run or of its folder."""

    @wraps(experiment)
    def call(run: str | Path | Run, **settings: Any) -> ResultT:
        return experiment(run if isinstance(run, Run) else Run(run), **settings)

    return call


steer, ablate, sweep = _on_folder(Run.steer), _on_folder(Run.ablate), _on_folder(Run.sweep)
