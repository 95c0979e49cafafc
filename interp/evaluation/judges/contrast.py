"""Contrast: is the answer likelier under a system prompt that asks for the trait or under its opposite? Needs no label and no network.

On answers of unedited models it separates well; on those of edited models it does not (docs/evaluation.md): what no persona would
have said is a coin toss between two. So it is a second opinion, never the default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from interp import __version__
from interp.core.errors import ConfigError, ModelError
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import EMPTY, Done, Judgement, handed_over
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.traits import Trait


class ContrastJudge:
    """The trait score is 100 × the probability of the prompt that asks for the trait, both equally likely before the answer was read."""

    name = "contrast"
    shows_above = 50.0
    coherent_above = None

    def __init__(self, model: LanguageModel, trait: Trait, identity: str | None = None) -> None:
        """The prompts are the first of the trait's `elicitation`; `identity` is a content key of the model, by default of its files.

        Raises `ConfigError` for a trait without them.
        """
        if trait.elicitation is None:
            raise ConfigError(f"The trait {trait.name} has no system prompts to contrast. Write 'elicitation' into its trait.yaml.")
        self.model, self.systems = model, (trait.elicitation.positive[0], trait.elicitation.negative[0])
        self._model_identity = identity

    @cached_property
    def identity(self) -> str:
        """Content key of model and system prompts."""
        from interp.models.sources import model_identity

        known = self._model_identity or model_identity(self.model.source)
        return content_key([self.name, __version__, known, str(self.model.dtype), *self.systems])

    def judge(self, questions: Sequence[str], answers: Sequence[str], done: Done | None = None) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        asked = [i for i, answer in enumerate(answers) if answer.strip()]
        likelihoods = [
            [float(row.sum()) for row in self.model.logprobs([Chat.ask(questions[i], answers[i], system) for i in asked])]
            for system in self.systems
        ]
        judgements = [EMPTY] * len(answers)
        for i, shown, not_shown in zip(asked, *likelihoods, strict=True):
            if not math.isfinite(shown - not_shown):
                raise ModelError(f"{self.model.source} gives probabilities that are no numbers. Take another model, or --dtype float32.")
            judgements[i] = Judgement(100.0 * _sigmoid(shown - not_shown), None)
        return handed_over(judgements, done)


def _sigmoid(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > -700 else 0.0
