"""What a study works on: two models, opened when a step first needs them, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path

import torch

from interp.core.errors import ConfigError, DictionaryError
from interp.core.progress import progress
from interp.dictionaries.files import DIFFERENCE
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.pretrained import resolve_dictionary
from interp.dictionaries.protocol import Dictionary
from interp.evaluation.grading import Grader
from interp.evaluation.questions import QuestionSet, read_questions
from interp.models.hook_points import parse_hook_point, resid_post
from interp.models.language_model import LanguageModel, check_pair
from interp.models.sources import choose_device, model_shape, open_model
from interp.studies.config import StudyConfig


class Workbench:
    """Models, dictionary, judges and questions of one study, each made once, on first use."""

    def __init__(self, config: StudyConfig, quiet: bool = False) -> None:
        self.config = config
        self.progress: Callable[[str, int], AbstractContextManager[Callable[..., None]]] = partial(progress, quiet=quiet)
        self.tuned_source: str | None = config.tuned
        self.unfinished: Path | None = None
        """Where the running step keeps finished batches, so that a killed one goes on in the middle."""
        self.dictionary_folder: Path | None = None if config.sae is None else resolve_dictionary(config.sae)
        self.questions: QuestionSet = read_questions(config.questions)
        for split, wanted in (
            ("selection", max(config.diff.questions, config.screen.questions)),
            ("held_out", config.verdict.questions),
        ):
            self.questions.split(split, wanted)  # type: ignore[arg-type]
        self.d_model, self.n_layers = model_shape(config.base, config.trust_remote_code)
        self.hook_point = self._choose_hook_point()
        self.window = self._choose_window()

    def _choose_hook_point(self) -> str:
        """The configured hook point, else the SAE's, else after the middle block; raises for one the model or SAE lacks."""
        name = self.config.hook_point and str(parse_hook_point(self.config.hook_point, self.n_layers))
        if self.dictionary_folder is not None:
            sae = load_dictionary(self.dictionary_folder)
            if sae.reads == DIFFERENCE:
                raise DictionaryError(
                    f"The SAE {self.config.sae} reads tuned minus base residuals, this job reads one model at a time. "
                    "Give an SAE that was trained on a model's own residuals."
                )
            if sae.n_models > 2:
                raise DictionaryError(f"The crosscoder {self.config.sae} reads {sae.n_models} models, here are two. Give one of a pair.")
            if sae.d_in != self.d_model:
                raise DictionaryError(
                    f"The SAE {self.config.sae} reads residuals of width {sae.d_in}, {self.config.base} has {self.d_model}. "
                    "Give an SAE that was trained on this model."
                )
            if name and sae.hook_point and name != sae.hook_point:
                raise DictionaryError(f"The SAE {self.config.sae} reads at {sae.hook_point}, not at {name}. Leave out --hook-point.")
            name = name or sae.hook_point or None
            if name is None:
                raise DictionaryError(f"The SAE {self.config.sae} does not say where it reads. Name it with --hook-point.")
        return str(parse_hook_point(name or resid_post(self.n_layers // 2), self.n_layers))

    def _choose_window(self) -> list[str]:
        """Hook points of the ablation; raises `ConfigError` for layers the model lacks."""
        first, last = self.config.window or (round(0.27 * self.n_layers), min(self.n_layers - 1, round(0.75 * self.n_layers)))
        if not 0 <= first <= last < self.n_layers:
            raise ConfigError(f"window: layers {first} to {last} are not within 0 to {self.n_layers - 1}. Give first,last in order.")
        return [resid_post(layer) for layer in range(first, last + 1)]

    @cached_property
    def base(self) -> LanguageModel:
        """The base model."""
        return self._open(self.config.base)

    @cached_property
    def tuned(self) -> LanguageModel:
        """The tuned model, checked to match the base."""
        if self.tuned_source is None:
            raise ConfigError("There is no tuned model yet. Give one with --tuned, or let the study train an organism.")
        tuned = self._open(self.tuned_source, base=self.config.base)
        check_pair(self.base, tuned)
        return tuned

    @cached_property
    def dictionary(self) -> Dictionary:
        """The dictionary, on the models' device."""
        if self.dictionary_folder is None:
            raise ConfigError("There is no dictionary yet. Give one with --sae, or let the study train it.")
        dictionary = load_dictionary(self.dictionary_folder, choose_device(self.config.device))
        return dictionary if dictionary.hook_point else dictionary.at(self.hook_point)

    @cached_property
    def grader(self) -> Grader:
        """The judges."""
        from interp.evaluation.judges.fluency import SCORER

        same = self.config.base == SCORER and self.base.device.type == "cpu" and self.base.dtype == torch.float32
        return default_grader(self.base if same else None)

    def _open(self, source: str, base: str | None = None) -> LanguageModel:
        return open_model(source, base, self.config.device, self.config.dtype, self.config.trust_remote_code)


def default_grader(scorer: LanguageModel | None = None) -> Grader:
    """The judges; `scorer` is the model that fluency is scored with, opened here where it is not at hand."""
    from interp.evaluation.judges.embedding import SentenceEmbedder
    from interp.evaluation.judges.fluency import SCORER, FluencyJudge
    from interp.evaluation.judges.probe import ProbeJudge
    from interp.evaluation.judges.vader import VaderJudge

    fluency = FluencyJudge(scorer or open_model(SCORER, device="cpu", dtype="float32"))
    return Grader(ProbeJudge(SentenceEmbedder()), fluency, VaderJudge())
