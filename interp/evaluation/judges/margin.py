"""Margin: how much likelier is an answer after system prompts that ask for the trait than after prompts that ask for its opposite?

Needs no exemplars and no network. On answers of unedited models it separates well; on those of edited models it does less so
(docs/evaluation.md): what no persona would have said is a coin toss between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from interp import __version__
from interp.core.errors import ConfigError, ModelError
from interp.core.files import read_json
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import EMPTY, Judgement
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sources import model_identity
from interp.traits import Trait
from interp.traits.trait import MARGIN


class MarginJudge:
    """The trait score is 100 × a logistic function of the margin per token; it does not judge coherence.

    Its slope and offset are fitted on the trait's labels (`fitting.fit_margin`). Where they were not, or for another model, they are the
    number of tokens and 0: the probability of the prompts that ask for the trait, both sides equally likely before the answer was read.
    """

    name = "margin"
    shows_above = 50.0
    coherent_above = None

    def __init__(self, model: LanguageModel, trait: Trait, identity: str | None = None) -> None:
        """`identity` is a content key of the model, by default that of its source's files.

        Raises `ConfigError` for a trait without `elicitation`, or whose prompts have changed since the calibration was fitted.
        """
        if trait.elicitation is None:
            raise ConfigError(f"The trait {trait.name} has no system prompts to compare. Write 'elicitation' into its trait.yaml.")
        self.model, self.prompts = model, (trait.elicitation.positive, trait.elicitation.negative)
        self._identity, self._path = identity, trait.path(MARGIN)

    @cached_property
    def scorer(self) -> str:
        """Content key of the model."""
        return self._identity or model_identity(self.model.source)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The calibration (`slope` and `offset` of the log-odds by the margin) and what is known of it; empty where there is none."""
        fitted = {} if self._path is None else read_json(self._path)
        if not fitted or fitted["scorer"] != self.scorer:
            return {}
        if fitted["prompts"] != content_key(self.prompts):
            raise ConfigError(f"{self._path} was fitted with other system prompts. Fit it again with 'personascope trait fit'.")
        return dict(fitted)

    @cached_property
    def identity(self) -> str:
        """Content key of model, system prompts and calibration."""
        numbers = [self.about.get(name) for name in ("slope", "offset")]
        return content_key([self.name, __version__, self.scorer, str(self.model.dtype), self.prompts, numbers])

    def margins(self, questions: Sequence[str], answers: Sequence[str]) -> Float[np.ndarray, "answers 2"]:
        """Mean log-probability (nats) of an answer's tokens after positive prompts minus that after negative ones; the number of tokens.

        Several prompts of a side are averaged; the turn's end is a token. NaN for an empty answer. Raises `ModelError` where a
        probability is not a number.
        """
        asked = [i for i, answer in enumerate(answers) if answer.strip()]
        result = np.full((len(answers), 2), np.nan)
        result[asked] = 0.0
        for sign, side in zip((1.0, -1.0), self.prompts, strict=True):
            for system in side:
                rows = self.model.logprobs([Chat.ask(questions[i], answers[i], system) for i in asked])
                result[asked, 0] += [sign * float(row.double().mean()) / len(side) for row in rows]
                result[asked, 1] = [len(row) for row in rows]
        if not np.isfinite(result[asked]).all():
            raise ModelError(f"{self.model.source} gives probabilities that are no numbers. Take another model, or --dtype float32.")
        return result

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        margins, tokens = self.margins(questions, answers).T
        scores = 100.0 * expit(self.about.get("slope", tokens) * margins + self.about.get("offset", 0.0))
        return [EMPTY if np.isnan(score) else Judgement(float(score), None) for score in scores]
