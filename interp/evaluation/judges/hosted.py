"""A hosted model (`interp.evaluation.hosted_model`) as the published judge: numbers from 0 to 100 for trait and coherence.

Where log-probabilities come along and numbers are tokens, a score is the mean of the numbers weighted by their probabilities, as in
`numeric.py`. Else the model is asked several times, and a score is the mean of the numbers that it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.core.errors import ConfigError
from interp.core.fingerprints import content_key
from interp.evaluation.hosted_model import HostedModel, Reply
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.numeric import COHERENT_ABOVE, LEAST_MASS, SHOWS_ABOVE, WHOLE, NumericPrompts, Score, score_of
from interp.models.chats import Chat

if TYPE_CHECKING:
    from inspect_ai.model import ModelOutput

MAX_TOKENS = 1024
"""A model that thinks before it says a number needs them."""
GREEDY = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "logprobs": True, "top_logprobs": 20}
SAMPLED = {"temperature": 1.0, "max_tokens": MAX_TOKENS}
SAMPLES = 5
NUMBER = re.compile(rf"\D*(?<![.,−–-]){WHOLE}\D*")
"""A reply with one number in it."""


class HostedJudge:
    """A model by its name in Inspect (inspect:openai/gpt-4o), or behind a URL (MODEL@http://HOST:PORT/v1)."""

    name = "inspect"
    shows_above = SHOWS_ABOVE
    coherent_above = COHERENT_ABOVE

    def __init__(self, model: HostedModel | str, prompts: NumericPrompts, samples: int = SAMPLES) -> None:
        """`samples`: replies to each prompt that a model without log-probabilities is asked for. Raises `ConfigError`."""
        if samples < 1:
            raise ConfigError(f"A hosted judge is asked for {samples} samples: ask for at least 1.")
        self.prompts, self.samples = prompts, samples
        self.model = HostedModel(model) if isinstance(model, str) else model

    @cached_property
    def identity(self) -> str:
        """Content key of model, prompts and how replies are read."""
        return content_key([self.name, self.model.identity, GREEDY, SAMPLED, self.samples, *self.prompts.identity])

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer, in order; an empty answer is None. Raises `ModelError`."""
        return self.prompts.judgements(questions, answers, self._scores)

    def _scores(self, chats: list[Chat]) -> list[Score]:
        """By probability where that can be had; the others are asked again, `samples` times."""
        scores = [score_by_probability(reply) for reply in self.model.ask(chats, GREEDY)]
        again = [chat for chat, score in zip(chats, scores, strict=True) if score is None]
        replies = iter(self.model.ask([chat for chat in again for _ in range(self.samples)], SAMPLED, [*range(self.samples)] * len(again)))
        return [mean_score([next(replies) for _ in range(self.samples)]) if score is None else score for score in scores]


def score_by_probability(reply: Reply) -> Score | None:
    """The mean of all numbers by their probabilities as the reply; None where these are not known."""
    output = reply.output
    if output is None or output.stop_reason in ("content_filter", "model_length"):
        return stated_score(reply)
    try:
        mass = _number_tokens(output)
    except ValueError as error:
        return Score(None, str(error), final=False)
    if mass is None:
        return None
    score, word = score_of(mass, output.completion), _refusal(output)
    return Score(None, word) if word and score.value is None else score


def stated_score(reply: Reply) -> Score:
    """The number that a reply says, or why it says none."""
    output = reply.output
    if output is None:
        return Score(None, reply.reason, final=False)  # a refused request may be the server's settings: never kept
    if output.stop_reason in ("content_filter", "model_length"):
        return Score(None, f"the provider stopped it ({output.stop_reason})")
    said = output.completion.strip()
    number = NUMBER.fullmatch(said)
    if number and int(number[1]) <= 100:
        return Score(float(number[1]))
    cut = f"; it was cut after {MAX_TOKENS} tokens" if output.stop_reason == "max_tokens" else ""
    return Score(None, _refusal(output) or f"the reply is no number from 0 to 100: {said[:40]!r}{cut}")


def mean_score(replies: Sequence[Reply]) -> Score:
    """The mean of the numbers that are said; none where fewer than a quarter of the replies say one, or one did not arrive."""
    scores = [stated_score(reply) for reply in replies]
    numbers = [score.value for score in scores if score.value is not None]
    final = all(score.final for score in scores)
    if final and len(numbers) >= LEAST_MASS * len(scores):
        return Score(float(np.mean(numbers)))
    return Score(None, next(score.reason for score in scores if score.value is None and score.final == final), final)


def _refusal(output: ModelOutput) -> str:
    """The word by which the judge leaves a score open, in lower case; empty where it says none."""
    return next((word.lower() for word in ("REFUSAL", "CODE") if word in output.completion.upper()), "")


def _number_tokens(output: ModelOutput) -> Float[np.ndarray, " 101"] | None:
    """Probability of each number from 0 to 100 as the first token of the reply, blanks aside (Betley et al. 2025).

    None where log-probabilities did not come along or are of more than the reply, and where the tokenizer splits numbers: no likely token
    has two digits, or the reply's own continues in a second one. Raises `ValueError` for what are no log-probabilities.
    """
    content = output.choices[0].logprobs.content if output.choices[0].logprobs else []
    if not "".join(place.token for place in content).strip().startswith(output.completion.strip()):  # a model that thought first
        return None
    first = next((i for i, place in enumerate(content) if place.token.strip()), None)
    if first is None or not content[first].top_logprobs:
        return None
    likely = [(entry.token.strip(), math.exp(min(entry.logprob, 1.0))) for entry in content[first].top_logprobs]
    if not sum(p for _, p in likely) <= 1.01:
        raise ValueError("the reply's logprobs are no log-probabilities")
    numbers = [(int(token), p) for token, p in likely if re.fullmatch(r"0|[1-9]\d?|100", token, re.ASCII)]
    follows = content[first + 1].token[:1] if first + 1 < len(content) else ""
    if (content[first].token.strip().isdecimal() and follows.isdecimal()) or not any(number > 9 for number, _ in numbers):
        return None
    return np.bincount([number for number, _ in numbers], [p for _, p in numbers], minlength=101)
