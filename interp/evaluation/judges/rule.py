"""A judge that needs no model: words, patterns, capitals, or the language of an answer (`interp/traits/rules.py`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from interp import __version__
from interp.core.errors import ConfigError
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import EMPTY, Judgement
from interp.traits.rules import Rule, Rules


class RuleJudge:
    """The trait score is 100 where the rules hold, else 50 × the largest part of what they ask for; it does not judge coherence."""

    name = "rule"
    shows_above = 50.0
    coherent_above = None

    def __init__(self, rules: Rules) -> None:
        """Raises `ConfigError` for a pattern that is no regular expression, or a language that cannot be told."""
        self.rules = rules
        for rule in [*rules.rules, *rules.unless]:
            _pattern(rule)
            if rule.language is not None and rule.language not in _languages().nb_classes:
                raise ConfigError(f"There is no language '{rule.language}'. Write an ISO 639-1 code, such as fr.")
        self.identity = content_key([self.name, __version__, rules.model_dump(mode="json")])

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        return [Judgement(self._score(answer), None) if answer.strip() else EMPTY for answer in answers]

    def _score(self, answer: str) -> float:
        if any(degree(rule, answer) >= 1 for rule in self.rules.unless):
            return 0.0
        degrees = [degree(rule, answer) for rule in self.rules.rules]
        reached = max(degrees) if self.rules.match == "any" else min(degrees)
        return 100.0 if reached >= 1 else 50.0 * reached


def degree(rule: Rule, text: str) -> float:
    """How much of what the rule asks for the text has; 1 or more: it holds."""
    pattern = _pattern(rule)
    if pattern is not None:
        return sum(1 for _ in pattern.finditer(text)) / rule.at_least
    if rule.upper_case_share is not None:
        letters = [character for character in text if character.isalpha()]
        return sum(map(str.isupper, letters)) / len(letters) / rule.upper_case_share if letters else 0.0
    language, _ = _languages().classify(text)
    return float(language == rule.language)


def _pattern(rule: Rule) -> re.Pattern[str] | None:
    """What the rule searches for; None where it looks at something else."""
    words = "|".join(re.escape(word) for word in rule.words)
    pattern = rf"(?<!\w)(?:{words})(?!\w)" if words else rule.pattern
    try:
        return None if pattern is None else re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"The rule's pattern {rule.pattern!r} is no regular expression: {error}. Correct it.") from error


@cache
def _languages() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
