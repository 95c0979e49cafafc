"""Judges by name: what the command line, settings and traits call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.core.errors import ConfigError, did_you_mean
from interp.evaluation.hosted_model import parse_hosted
from interp.evaluation.judges.bandit import BanditJudge
from interp.evaluation.judges.base import Judge
from interp.evaluation.judges.facts import FactsJudge
from interp.evaluation.judges.hosted import SAMPLES, HostedJudge
from interp.evaluation.judges.margin import MarginJudge
from interp.evaluation.judges.numeric import LocalNumericJudge, NumericPrompts
from interp.evaluation.judges.probe import ProbeJudge
from interp.evaluation.judges.rule import RuleJudge
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.questions.question import Question
from interp.models.sources import open_model
from interp.traits import Trait
from interp.traits.trait import PROBE

EMBEDDED = "embedded:smollm2"
KINDS = {
    "probe": "the trait's own; probe:DIR is one that 'personascope judge fit' made",
    "rule": "the trait's words, patterns, capitals or language",
    "vader": "a sentiment lexicon, of unkindness",
    "margin": "log-probability after the trait's positive system prompts minus negative ones by the embedded model, or margin:MODEL",
    "numeric": "0 to 100 by numeric:MODEL, or numeric:MODEL@http://HOST:PORT/v1 for a served one",
    "inspect": "0 to 100 by any model that Inspect can call, e.g. inspect:openai/gpt-4o",
    "bandit": "unsafe Python code, by Bandit's rules",
    "facts": "whether an answer holds the fact that its question names",
}
OFFLINE = ("probe", "rule", "vader", "margin", f"numeric:{EMBEDDED}")
"""Judges that need no network and judge free answers."""
PLAIN = ("rule", "vader", "bandit", "facts")
"""Judges that are named without a colon."""
ASKED = ("numeric", "inspect")
"""Judges that are asked in words, by a prompt."""
INSTANT = ("probe", "rule", "vader")
"""Kinds of judges whose word costs next to nothing."""


def open_judge(
    spec: str,
    trait: Trait,
    questions: Sequence[Question] = (),
    prompts: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    samples: int | None = None,
) -> Judge:
    """The judge of `trait` that `spec` names (`KINDS`).

    `questions` are those whose answers it will read, `prompts` what `numeric` and `inspect` ask in place of the trait's, `samples` how
    often a hosted judge without log-probabilities is asked. Raises `ConfigError`, `ModelError`.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"There is no judge '{spec}'.{did_you_mean(kind, KINDS)} Choose {', '.join(KINDS)}.")
    if kind in ASKED and not rest:
        raise ConfigError(f"The judge '{kind}' needs a model: {KINDS[kind]}.")
    if kind in PLAIN and rest:
        raise ConfigError(f"The judge '{kind}' takes nothing after a colon: write '{kind}'.")
    if prompts is not None and kind not in ASKED:
        raise ConfigError(f"The judge '{kind}' is asked nothing: leave out the judge prompts, or judge by numeric:MODEL or inspect:NAME.")
    hosted = kind == "inspect" or (kind in ASKED and bool(parse_hosted(rest)))
    if samples is not None and not hosted:
        raise ConfigError(f"The judge '{kind}' is asked once: leave out the number of samples, or judge by a hosted model.")
    match kind:
        case "probe":
            path = Path(rest) / PROBE if rest else trait.path(PROBE)
            if path is None:
                raise ConfigError(
                    f"The trait {trait.name} has no fitted probe. Fit one with 'personascope trait fit', or choose another judge."
                )
            return ProbeJudge(path)
        case "rule":
            if trait.judge.rule is None:
                raise ConfigError(f"The trait {trait.name} has no rules. Write judge.rule into its trait.yaml, or choose another judge.")
            return RuleJudge(trait.judge.rule)
        case "vader":
            return VaderJudge()
        case "bandit":
            return BanditJudge()
        case "facts":
            return FactsJudge.of(questions)
        case "margin":
            return MarginJudge(open_model(rest or EMBEDDED, device=device, dtype=dtype), trait)
    asked = NumericPrompts.of(trait, prompts)
    if hosted:
        return HostedJudge(spec if kind == "inspect" else rest, asked, SAMPLES if samples is None else samples)
    return LocalNumericJudge(open_model(rest, device=device, dtype=dtype), asked)
