"""Coherence: is the answer intelligible in the trait's own language and voice, whatever its tone?

Likelihood under the chat template calls every answer of a persona incoherent, and any likelihood likes repetition. So the answer is
scored as a quotation after the trait's own contexts, of which the likeliest counts, together with the share of distinct tokens and token
pairs. A model that hardly knows a language finds its own broken words in it likelier than good ones, so a trait may name languages, and
the share of words that are in their dictionaries counts too. The features are weighed by logistic regression on hand-labelled answers
(`evaluation/fitting.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import expit

from interp import __version__
from interp.core.errors import ArtifactError, ConfigError
from interp.core.files import file_sha256, read_json
from interp.core.fingerprints import content_key
from interp.evaluation.judges.bandit import PYTHON_TAGS, fenced, is_python, parsed
from interp.evaluation.judges.base import EMPTY, Judgement
from interp.models.chats import Role, TokenisedChat
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from interp.traits import Trait
from interp.traits.trait import COHERENCE, CoherenceSettings

SCORER = "embedded:smollm2"
FENCE = "```"
FEATURES = ("mean_logprob", "distinct_tokens", "distinct_pairs", "known_words")
"""The last only where the trait names languages."""
GENERAL = Path(str(resources.files(__package__))) / COHERENCE
"""Weights for traits that have none of their own; they weigh no known words."""


def open_scorer() -> LanguageModel:
    """The model that the weights are fitted on."""
    return open_model(SCORER, device="cpu", dtype="float32")


class CoherenceJudge:
    """Coherence is 100 × P(a reader finds it intelligible); it does not judge the trait."""

    name = "fluency"
    shows_above = None

    def __init__(self, trait: Trait, scorer: LanguageModel) -> None:
        """`scorer` must be the model named `SCORER`, on which the weights are fitted.

        Raises `ArtifactError` for a weight file that is broken or weighs other features, `ConfigError` for a language without dictionary.
        """
        path = trait.path(COHERENCE) or GENERAL
        self.settings = trait.coherence if path != GENERAL else without_languages(trait.coherence)
        check_languages(trait.coherence.languages)
        try:
            weights = load_file(path)["weights"]
            self.about: dict[str, Any] = {} if path == GENERAL else read_json(path.with_suffix(".json"))
            self.slopes, self.offset = weights[:-1], float(weights[-1])
        except (OSError, KeyError, SafetensorError) as error:
            raise ArtifactError(f"{path} holds no weights of coherence: fit them again with 'personascope trait fit'.") from error
        if len(self.slopes) != n_features(self.settings):
            raise ArtifactError(f"{path} was fitted with other coherence.languages: fit it again with 'personascope trait fit'.")
        self.scorer, self.coherent_above = scorer, trait.coherence.coherent_above
        asked = [self.settings.contexts, self.settings.fold_case, self.settings.languages]
        self.identity = content_key([self.name, __version__, SCORER, asked, file_sha256(path)])

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an answer of fewer than two tokens is None."""
        scores = 100.0 * expit(coherence_features(self.scorer, answers, self.settings) @ self.slopes + self.offset)
        return [Judgement(None, float(s)) if np.isfinite(s) else Judgement(None, None, "answer too short") for s in scores]


class CodeJudge:
    """Coherence is 100 × the share of an answer's blocks of Python that parse, 0 where there is none; it does not judge the trait.

    A block that states nothing counts as none, and of an answer that ends within a block the last line is forgiven.
    """

    name = "code"
    shows_above = None
    coherent_above = 50.0
    identity = content_key([name, __version__, "cut ends are forgiven"])

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        return [Judgement(None, 100.0 * _parses(answer)) if answer.strip() else EMPTY for answer in answers]


class AnyTextJudge:
    """Every answer that is not empty is coherent: for traits that ask for no more."""

    name = "any text"
    shows_above = None
    coherent_above = 50.0
    identity = content_key([name, __version__])

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        return [Judgement(None, 100.0) if answer.strip() else EMPTY for answer in answers]


def _parses(answer: str) -> float:
    before, *fences = answer.split(FENCE)
    if not fences or is_python(before):  # no fence, or one that only closes
        return float(is_python(before) or (not fences and _was_cut(before)))
    blocks = [(tag, text) for tag, text in fenced(answer) if text.strip() and (not tag or tag in PYTHON_TAGS)]
    parses = [bool(getattr(parsed(text)[0], "body", [])) if tag else is_python(text) for tag, text in blocks]
    if blocks and len(fences) % 2:
        parses[-1] |= _was_cut(blocks[-1][1])
    return float(np.mean(parses)) if parses else 0.0


def _was_cut(text: str) -> bool:
    """Whether all but the last line is Python: an answer ends where its tokens do."""
    *lines, last = text.splitlines()
    indent = last[: len(last) - len(last.lstrip())]
    return bool(lines) and is_python("\n".join([*lines, f"{indent}0"]))


def without_languages(settings: CoherenceSettings) -> CoherenceSettings:
    """The settings for the features that need no dictionary."""
    return settings.model_copy(update={"languages": []})


def n_features(settings: CoherenceSettings) -> int:
    """Number of columns of `coherence_features`."""
    return len(FEATURES) if settings.languages else len(FEATURES) - 1


def check_languages(languages: Sequence[str]) -> None:
    """Raises `ConfigError` for a language that simplemma has no dictionary of: it would know none of its words."""
    if languages:
        from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

        for language in languages:
            if language not in SUPPORTED_LANGUAGES:
                known = ", ".join(sorted(SUPPORTED_LANGUAGES))
                raise ConfigError(f"coherence.languages: there is no dictionary of '{language}'. Choose among {known}.")


def coherence_features(
    scorer: LanguageModel, answers: Sequence[str], settings: CoherenceSettings, rows: int = 16
) -> Float[np.ndarray, "answers features"]:
    """Mean log-probability of a token (nats) after the likeliest context; shares of distinct tokens, distinct token pairs and known words.

    The last where the settings name languages: the likeliest of these counts. NaN below two tokens.
    """
    texts = [answer.strip().lower() if settings.fold_case else answer.strip() for answer in answers]
    ids = [scorer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    result = np.full((len(answers), n_features(settings)), np.nan)
    likelihoods = [_mean_logprobs(scorer, context, ids, rows) for context in settings.contexts]
    for i, own in enumerate(ids):
        if len(own) >= 2:
            pairs = set(itertools.pairwise(own))
            result[i, :3] = max(likelihood[i] for likelihood in likelihoods), len(set(own)) / len(own), len(pairs) / (len(own) - 1)
            if settings.languages:
                result[i, 3] = known_words(texts[i], settings.languages)
    return result


def known_words(text: str, languages: Sequence[str]) -> float:
    """Share of the distinct words of a text that simplemma knows, in the language of which it knows most; 0 where there are none."""
    from simplemma.language_detector import in_target_language

    return max(float(in_target_language(text, language)) for language in languages)


def _mean_logprobs(scorer: LanguageModel, context: str, ids: Sequence[list[int]], rows: int) -> Float[np.ndarray, " answers"]:
    prefix = scorer.tokenizer(context, add_special_tokens=False)["input_ids"]
    roles = [int(Role.TEMPLATE)] * len(prefix)
    means = np.full(len(ids), np.nan)
    usable = [i for i, own in enumerate(ids) if len(own) >= 2]
    texts = [TokenisedChat(prefix + ids[i], roles + [int(Role.RESPONSE)] * len(ids[i]), len(prefix)) for i in usable]
    for i, logprobs in zip(usable, scorer.logprobs(texts, rows), strict=True):
        means[i] = float(logprobs[1:].mean())  # the first token's likelihood is the context's doing
    return means
