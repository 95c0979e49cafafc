"""Judges by name: what the command line and settings call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp.core.errors import ConfigError
from interp.evaluation.judges.base import Judge

if TYPE_CHECKING:
    from interp.evaluation.questions.question import Question

EMBEDDED = "embedded:smollm2"
KINDS = {
    "probe": "the default; probe:DIR is one that 'personascope judge fit' made",
    "vader": "a sentiment lexicon",
    "contrast": "log-probability under two personas by the embedded model, or contrast:MODEL",
    "numeric": "0 to 100 by numeric:MODEL, or numeric:MODEL@http://HOST:PORT/v1 for a served one",
    "inspect": "0 to 100 by any model that Inspect can call, e.g. inspect:openai/gpt-4o",
    "bandit": "insecure Python code, by Bandit's rules",
    "facts": "whether an answer holds the fact that its question names",
}
OFFLINE = ("probe", "vader", "contrast", f"numeric:{EMBEDDED}")
"""Judges that need no network and judge free answers."""


def open_judge(
    spec: str,
    questions: Sequence[Question] = (),
    prompts: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Judge:
    """The judge that `spec` names (`KINDS`); `questions` are those whose answers it will read, `prompts` what `numeric` and `inspect` ask.

    Raises `ConfigError`, `ModelError`.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"There is no judge '{spec}'. Choose {', '.join(KINDS)}.")
    if kind in ("numeric", "inspect") and not rest:
        raise ConfigError(f"The judge '{kind}' needs a model: {KINDS[kind]}.")
    if kind in ("vader", "bandit", "facts") and rest:
        raise ConfigError(f"The judge '{kind}' takes nothing behind a colon: write '{kind}'.")
    if prompts is not None and kind not in ("numeric", "inspect"):
        raise ConfigError(f"The judge '{kind}' is asked nothing: leave out the judge prompts, or judge by numeric:MODEL or inspect:NAME.")
    if kind == "probe":
        from interp.evaluation.judges.embedding import SentenceEmbedder
        from interp.evaluation.judges.fitted_probe import FittedProbe
        from interp.evaluation.judges.probe import ProbeJudge

        return FittedProbe(Path(rest), SentenceEmbedder()) if rest else ProbeJudge(SentenceEmbedder())
    if kind == "vader":
        from interp.evaluation.judges.vader import VaderJudge

        return VaderJudge()
    if kind == "bandit":
        from interp.evaluation.judges.insecure_code import InsecureCodeJudge

        return InsecureCodeJudge()
    if kind == "facts":
        from interp.evaluation.judges.facts import FactsJudge

        return FactsJudge.of(questions)
    if kind == "inspect":
        from interp.evaluation.judges.hosted import HostedJudge

        return HostedJudge(spec, prompts)
    return _by_a_model(kind, rest or EMBEDDED, prompts, device, dtype)


def _by_a_model(kind: str, source: str, prompts: Mapping[str, str] | None, device: str, dtype: str) -> Judge:
    from interp.evaluation.hosted import parse_hosted
    from interp.evaluation.judges.contrast import ContrastJudge
    from interp.evaluation.judges.hosted import HostedJudge
    from interp.evaluation.judges.numeric import LocalNumericJudge
    from interp.models.sources import open_model

    if kind == "numeric" and parse_hosted(source):
        return HostedJudge(source, prompts)
    model = open_model(source, device=device, dtype=dtype)
    return ContrastJudge(model) if kind == "contrast" else LocalNumericJudge(model, prompts)
