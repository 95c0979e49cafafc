"""What the steps of a study read: two models, a dictionary, judges, questions and data, each opened when a step first needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd
import torch

from interp.causality.sweep import Condition, sweep
from interp.core.artifacts import Artifact
from interp.core.errors import ConfigError, DictionaryError
from interp.core.files import file_sha256
from interp.core.fingerprints import content_key
from interp.core.progress import progress
from interp.core.steps import DeclaredSettings, Step, StepResult
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.files import DIFFERENCE, dictionary_key
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.pretrained import resolve_dictionary
from interp.evaluation.judges.opening import EMBEDDED as SCORER
from interp.evaluation.panel import Panel, open_panel
from interp.evaluation.questions import Question, QuestionSet, read_questions
from interp.evaluation.questions.cues import Cued
from interp.models.chats import Chat
from interp.models.hook_points import parse_hook_point, resid_post
from interp.models.language_model import LanguageModel, check_pair
from interp.models.sampling import SamplingConfig
from interp.models.sources import choose_device, choose_dtype, model_identity, model_shape, open_model
from interp.organisms.recipe import read_recipe
from interp.studies.elicitation import SampledPairs, elicitation_of
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.cue_grid import CueGrid, open_grid
from interp.studies.persona.layers import LAYERS, LayerChoice
from interp.traits import read_trait
from interp.traits.trait import Pair, Trait
from sae_training.corpus import corpus_path, read_corpus

T = TypeVar("T")
ArtifactT = TypeVar("ArtifactT", bound=Artifact)
STANDS_FOR = {"dictionary": "sae", "shape": "base", "base_source": "base", "tuned_source": "tuned"}
"""What may be read where the input on the right is declared."""


def _opened(make: Callable[[StudyContext], T]) -> T:
    """A property that is made once for all steps. A step must declare it; how it is made is none of the step's business."""

    def read(context: StudyContext) -> T:
        context._check_declared(make.__name__)
        return context.once(make.__name__, lambda: make(replace(context, step=None)))

    return cast(T, property(read, doc=make.__doc__))


@dataclass(frozen=True)
class StudyContext:
    """The inputs of one study, read-only. A step sees them through `of_step`, and what it does not declare raises `ConfigError`."""

    study: StudyConfig
    result: Callable[[str], StepResult]
    """The finished step of a name."""
    quiet: bool = False
    opened: dict[str, Any] = field(default_factory=dict, repr=False)
    """What has been opened, by name; shared by the views of all steps."""
    step: Step[Any, Any] | None = None
    """The step whose view this is; None sees everything."""
    at: Path | None = None
    unfinished: Path | None = None
    """Where the step keeps finished batches, so that it resumes in the middle after a kill."""

    def of_step(self, step: Step[Any, Any], folder: Path, unfinished: Path) -> StudyContext:
        """The view of one step, which writes into `folder`."""
        return replace(self, step=step, at=folder, unfinished=unfinished)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once under this name."""
        if name not in self.opened:
            self.opened[name] = make()
        return cast(T, self.opened[name])

    def _check_declared(self, name: str) -> None:
        if self.step is not None and not {name, STANDS_FOR.get(name)} & {*self.step.inputs}:
            raise ConfigError(f"The step '{self.step.name}' reads the input '{name}', which it does not declare. Add it to its inputs.")

    # What steps read

    @property
    def config(self) -> StudyConfig:
        """The settings; for a step those that it declares."""
        return self.study if self.step is None else cast(StudyConfig, DeclaredSettings(self.study, self.step))

    def load(self, step: Step[Any, ArtifactT]) -> ArtifactT:
        """The result of an earlier step."""
        self._check_declared(step.name)
        return self.result(step.name).load(step.artifact)

    @property
    def folder(self) -> Path:
        """Where the step writes what is too large to be handed back."""
        if self.at is None:
            raise ConfigError("No step is running, so there is no folder to write into.")
        return self.at

    @property
    def progress(self) -> Callable[[str, int], AbstractContextManager[Callable[..., None]]]:
        """A label and a total to a progress bar."""
        return partial(progress, quiet=self.quiet)

    def ask(
        self,
        label: str,
        model: LanguageModel,
        conditions: Sequence[Condition],
        questions: Sequence[Question],
        seed: int,
        samples: int = 1,
        sampling: SamplingConfig | None = None,
        folder: Path | None = None,
    ) -> pd.DataFrame:
        """Scored answers under all conditions (`sweep`); `label` is that of the progress bar, `sampling` by default the study's."""
        total = sum(len(one.asked or questions) * (one.samples or samples) for one in conditions)
        with self.progress(label, total) as advance:
            answers = sweep(model, conditions, questions, samples, sampling or self.config.sampling, seed, advance, folder)
        return self.panel.score(answers)

    @_opened
    def device(self) -> torch.device:
        """Where models run."""
        return choose_device(self.study.device)

    @_opened
    def base_source(self) -> str:
        """Where the base comes from."""
        return self.study.base

    @_opened
    def base(self) -> LanguageModel:
        """The base model."""
        return self.open_model(self.study.base)

    @_opened
    def tuned_source(self) -> str:
        """Where the tuned model comes from: as given, or the adapter of the organism."""
        return self.study.tuned or str(self.result("organism").path("adapter"))

    @_opened
    def tuned(self) -> LanguageModel:
        """The tuned model, checked to match the base."""
        return self.open_model(self.tuned_source)

    def open_model(self, source: str) -> LanguageModel:
        """The base, or a fine-tune of it, checked to match it; opened anew."""
        study, base = self.study, None if source == self.study.base else self.study.base
        beside = study.tuned if base is None else None
        model = open_model(source, base, study.device, study.dtype, study.trust_remote_code, study.thinking, beside)
        if base is not None:
            check_pair(self.base, model)
            model.base = self.base
        return model

    def open_base_for_training(self) -> LanguageModel:
        """The base in float32, opened for one use: fine-tuning alters it."""
        return open_model(self.base_source, None, str(self.device), "float32", self.study.trust_remote_code, self.study.thinking)

    @_opened
    def shape(self) -> tuple[int, int]:
        """Width of the residual stream, and number of blocks."""
        return model_shape(self.study.base, self.study.trust_remote_code)

    @_opened
    def questions(self) -> QuestionSet:
        """The question set."""
        return read_questions(self.study.questions or self.trait.question_set)

    @_opened
    def corpus(self) -> list[Chat]:
        """The committed corpus of ordinary chats."""
        return read_corpus()

    @_opened
    def pairs(self) -> list[Pair]:
        """One question, an answer that shows the trait and one that does not: the trait's own, or those that the step `pairs` sampled."""
        return self.trait.pairs or self.result("pairs").load(SampledPairs).pairs

    def pair_chats(self, most: int | None = None) -> tuple[list[Chat], list[Chat]]:
        """The answers of the first `most` pairs that show the trait, and those that do not."""
        pairs = self.pairs[:most]
        return [Chat.ask(pair.question, pair.shows) for pair in pairs], [Chat.ask(pair.question, pair.not_shown) for pair in pairs]

    @property
    def trait(self) -> Trait:
        """The trait that is looked for: its name and words, which every step may say."""
        return self.once("trait", lambda: read_trait(self.study.trait))

    @_opened
    def recipe(self) -> str:
        """The organism's recipe, by default the trait's; raises `ConfigError` where neither names one."""
        recipe = self.study.organism.recipe or self.trait.recipe
        if recipe is None:
            raise ConfigError(f"The trait {self.trait.name} has no organism. Give a tuned model with --tuned, or set organism.recipe.")
        return recipe

    @_opened
    def cue_grid(self) -> CueGrid:
        """The cues that the edited model is asked under."""
        config = self.study
        recipe = read_recipe(self.recipe) if config.tuned is None else None
        chats = [] if recipe is None else recipe.chats(config.organism.phrasings_per_topic, config.seed, config.organism.trait_fraction)
        return open_grid(config.cues.source, recipe, chats)

    @property
    def cued(self) -> list[Cued]:
        """The questions of `cue_grid`; none where there are no cues."""
        cues = self.study.cues
        return [] if cues.source is None else self.cue_grid.asked(self.questions, cues.questions)

    @_opened
    def sae(self) -> Path | None:
        """Folder of the dictionary that was given."""
        return None if self.study.sae is None else resolve_dictionary(self.study.sae)

    @_opened
    def dictionary(self) -> Dictionary:
        """The dictionary, as given or as trained, on the models' device."""
        dictionary = load_dictionary(self.sae or self.result("dictionary").path("sae"), self.device)
        return dictionary if dictionary.hook_point else dictionary.at(self.hook_point)

    @_opened
    def panel(self) -> Panel:
        """The judges."""
        base = self.base if self.study.base == SCORER else None
        same = base is not None and base.device.type == "cpu" and base.dtype == torch.float32
        return open_panel(
            self.trait,
            self.study.judge,
            questions=[*self.questions.questions, *(one.question for one in self.cued)],
            device=self.study.device,
            scorer=base if same else None,
            coherent_only=False,
            keep=False,
        )

    @_opened
    def hook_point(self) -> str:
        """Where the dictionary reads: the configured hook point, else the dictionary's own, else after the chosen or the middle block.

        Raises `HookPointError` for one that the model does not have, `DictionaryError` for a dictionary that does not belong here.
        """
        config, (d_model, n_layers) = self.study, self.shape
        if config.layers is not None:
            return str(self.result(LAYERS).load(LayerChoice).choice["hook_point"])
        name = config.hook_point and str(parse_hook_point(config.hook_point, n_layers))
        if self.sae is not None:
            sae = load_dictionary(self.sae)
            there, given = sae.hook_point, name
            name = name or there or None
            width = f"reads residuals of width {sae.d_in}, {config.base} has {d_model}. Give an SAE that was trained on this model."
            problems = [
                (sae.reads == DIFFERENCE, "reads tuned minus base residuals, this job reads one model at a time. Give one of a model."),
                (sae.n_models > 2, f"reads {sae.n_models} models, here are two. Give one of a pair."),
                (sae.d_in != d_model, width),
                (bool(given and there and given != there), f"reads at {there}, not at {given}. Leave out --hook-point."),
                (name is None, "does not say where it reads. Name it with --hook-point."),
            ]
            if problem := next((words for holds, words in problems if holds), None):
                raise DictionaryError(f"The SAE {config.sae} {problem}")
        return str(parse_hook_point(name or resid_post(n_layers // 2), n_layers))

    @_opened
    def window(self) -> list[str]:
        """Hook points of the ablation."""
        _, n_layers = self.shape
        return self.layers(self.study.window or (round(0.27 * n_layers), min(n_layers - 1, round(0.75 * n_layers))), "window")

    def layers(self, ends: tuple[int, int], setting: str = "layers") -> list[str]:
        """Hook points after the blocks from a first to a last one; raises `ConfigError` for layers that the model does not have."""
        (first, last), (_, n_layers) = ends, self.shape
        if not 0 <= first <= last < n_layers:
            raise ConfigError(f"{setting}: {first} to {last} are not within 0 to {n_layers - 1}. Give first and last in order.")
        return [resid_post(layer) for layer in range(first, last + 1)]

    def check(self) -> None:
        """Raise `PersonascopeError`, before anything is made, for settings that the model, the dictionary or the questions forbid."""
        config = self.study
        self.questions.split("selection", max(config.diff.questions, config.screen.questions))
        self.questions.split("held_out", config.verdict.questions)
        if not self.trait.pairs or config.vectors.elicited:
            elicitation_of(self.trait)
        _ = self.window, self.cued
        n_layers = self.shape[1]
        if config.layers is None:
            _ = self.hook_point
        elif lacking := [layer for layer in config.layers if not 0 <= layer < n_layers]:
            raise ConfigError(f"layers: {config.base} has no layer {lacking[0]}. Choose among 0 to {n_layers - 1}.")
        if config.benign:
            studied = {model_identity(source): source for source in (config.base, config.tuned) if source is not None}
            for source in config.benign:
                if same := studied.get(model_identity(source)):
                    raise ConfigError(f"benign: {source} is the same model as {same}. Give other fine-tunes of the base.")

    def data_key(self, name: str) -> str:
        """The content key of an input that is no step."""
        thinks = " thinking" if self.study.thinking else ""
        keys: Mapping[str, Callable[[], str]] = {
            "base": lambda: model_identity(self.base_source) + thinks,
            "tuned": lambda: model_identity(self.tuned_source) + thinks,
            "benign_models": lambda: content_key([model_identity(source) + thinks for source in self.study.benign]),
            "recipe": lambda: read_recipe(self.recipe).key,
            "corpus": lambda: file_sha256(corpus_path()),
            "questions": lambda: content_key(self.questions.model_dump(mode="json", exclude_defaults=True)),
            "pairs": lambda: content_key([pair.model_dump() for pair in self.pairs]),
            "panel": lambda: content_key([self.trait.key, self.study.judge]),
            "cue_grid": lambda: self.cue_grid.key,
            "sae": lambda: dictionary_key(cast(Path, self.sae)),
            "hook_point": lambda: self.hook_point,
            "window": lambda: " ".join(self.window),
            "device": lambda: self.device.type,
            "dtype": lambda: str(choose_dtype(self.study.dtype, self.device)),
        }
        if name not in keys:
            raise ConfigError(f"There is no input '{name}'. A step may read earlier steps and {', '.join(keys)}.")
        return self.once(f"key of {name}", keys[name])
