"""Steps `verdict`, from the evidence to a word by the rules of the config, and `judges`, how far the judges agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interp.causality.baselines import beyond_baselines
from interp.causality.carrier import carrier
from interp.causality.conditions import condition_table
from interp.causality.finding_sentence import finding
from interp.causality.verdict import decide
from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.screen import SCREEN


@dataclass(frozen=True)
class VerdictRecord(Artifact):
    """The verdict, and what it rests on."""

    verdict: dict[str, Any]
    """verdict (the word), finding (the sentence), carrier, beyond_baselines (in words), checks, effects, draws, power."""
    conditions: pd.DataFrame
    """The columns of `condition_table`."""


def make_verdict(context: StudyContext) -> VerdictRecord:
    """The verdict on what the screen chose."""
    return verdict_on(context, context.load(EVIDENCE).answers, context.load(SCREEN).choice)


def verdict_on(context: StudyContext, answers: pd.DataFrame, choice: Mapping[str, Any]) -> VerdictRecord:
    """The verdict on the latents of `choice`, from the answers of `gather_evidence`."""
    verdict = decide(answers, context.config.seed, context.trait.shown, context.config.rules)
    window = f"layers {context.window[0].split('.')[1]}–{context.window[-1].split('.')[1]}"
    record = {
        "verdict": verdict.word,
        "finding": finding(verdict.word, context.trait.shown, choice, context.hook_point, window, verdict.outcomes),
        "carrier": carrier(verdict, context.config.rules),
        "beyond_baselines": beyond_baselines(verdict.outcomes, context.config.rules, context.trait.shown),
        "checks": [asdict(check) for check in verdict.checks],
        "effects": {name: _finite(asdict(effect)) for name, effect in verdict.effects.items()},
        "draws": {name: asdict(test) for name, test in verdict.draws.items()},
        "power": asdict(verdict.power),
    }
    return VerdictRecord(record, condition_table(answers))


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without values that JSON lacks."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


VERDICT = Step("verdict", VerdictRecord, make_verdict, inputs=("evidence", "screen", "hook_point", "window"), settings=("seed", "rules"))


@dataclass(frozen=True)
class JudgeAgreement(Artifact):
    """Agreement of judges."""

    agreement: dict[str, Any]


def make_agreement(context: StudyContext) -> JudgeAgreement:
    """The judges on the trait's labels, and with each other on this run's answers."""
    return JudgeAgreement(context.panel.all_agreements(context.load(EVIDENCE).answers.drop_duplicates("answer")))


JUDGES = Step("judges", JudgeAgreement, make_agreement, inputs=("base", "device", "dtype", "panel", "evidence"))
