"""A hosted model (`interp.evaluation.hosted`) as the published judge: numbers from 0 to 100 for trait and coherence.

Where log-probabilities come along and numbers are tokens, a score is the mean of the numbers weighted by their probabilities, as in
`numeric.py`; else it is the number that the greedy reply says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from interp.core.fingerprints import content_key
from interp.evaluation.hosted import HostedModel, Reply
from interp.evaluation.judges.base import Done, Judgement
from interp.evaluation.judges.numeric import COHERENT_ABOVE, SHOWS_ABOVE, NumericPrompts
from interp.evaluation.judges.score import LEAST_MASS, Pairs, Score, score_of

if TYPE_CHECKING:
    from inspect_ai.model import ModelOutput

SETTINGS = {"temperature": 0.0, "max_tokens": 1024, "logprobs": True, "top_logprobs": 20}
"""A model that thinks before it says a number needs the tokens."""
NUMBER = re.compile(r"[^\d]*(?<![.-])(\d{1,3})(?:\.0+)?(?:\s*(?:/|out of)\s*100)?[^\d]*")
"""A reply with one number in it, perhaps out of 100."""


class HostedJudge:
    """A model by its name in Inspect (inspect:openai/gpt-4o), or behind a URL (MODEL@http://HOST:PORT/v1)."""

    name = "inspect"
    shows_above = SHOWS_ABOVE
    coherent_above = COHERENT_ABOVE

    def __init__(self, model: HostedModel | str, prompts: NumericPrompts) -> None:
        """Raises `ConfigError`."""
        self.prompts = prompts
        self.model = HostedModel(model) if isinstance(model, str) else model

    @cached_property
    def identity(self) -> str:
        """Content key of model, prompts and how replies are read."""
        asked = [self.prompts.trait, self.prompts.coherence, self.prompts.inverted, SETTINGS, LEAST_MASS, SHOWS_ABOVE, COHERENT_ABOVE]
        return content_key([self.name, self.model.identity, *asked])

    def judge(self, questions: Sequence[str], answers: Sequence[str], done: Done | None = None) -> list[Judgement]:
        """One judgement for each answer, in order; `done` gets each as it arrives, in this thread. Raises `ModelError`."""
        pairs = Pairs(answers, done, self.prompts.inverted)
        chats = [chat for i in pairs.asked for chat in self.prompts.chats(questions[i], answers[i])]
        self.model.ask(chats, SETTINGS, done=lambda place, reply: pairs.take(place, read_score(reply)))
        return pairs.judgements


def read_score(reply: Reply) -> Score:
    """The number of a reply: by log-probabilities where they can be used, else as it is written."""
    output = reply.output
    if output is None:
        return Score(None, reply.reason, final=False)  # a refused request may be the server's settings: never kept
    if output.stop_reason in ("content_filter", "model_length"):
        return Score(None, f"the provider stopped it ({output.stop_reason})")
    said = output.completion.strip()
    word = next((word.lower() for word in ("REFUSAL", "CODE") if word in said.upper()), "")
    try:
        likely = _number_tokens(output, said)
    except ValueError as error:
        return Score(None, str(error), final=False)
    if likely is not None:
        score = score_of(likely)
        return Score(None, word) if word and score.value is None else score
    number = NUMBER.fullmatch(said)
    if number and int(number[1]) <= 100:
        return Score(float(number[1]))
    cut = f"; it was cut after {SETTINGS['max_tokens']} tokens" if output.stop_reason == "max_tokens" else ""
    return Score(None, word or f"the reply is no number from 0 to 100: {said[:40]!r}{cut}")


def _number_tokens(output: ModelOutput, said: str) -> np.ndarray | None:
    """Probability of each number from 0 to 100 as the first token of the reply, blanks aside (Betley et al. 2025).

    None where log-probabilities did not come along or are of more than the reply, and where the tokenizer splits numbers: no likely token
    has two digits, or the reply's own continues in a second one. Raises `ValueError` for what are no log-probabilities.
    """
    content = output.choices[0].logprobs.content if output.choices[0].logprobs else []
    if not "".join(place.token for place in content).strip().startswith(said):  # a model that thought first
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
