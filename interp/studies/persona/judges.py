"""Step `judges`: how far the judges agree with hand labels and with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.evaluation.agreement import agreement_between_judges, agreement_with_labels
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE


@dataclass(frozen=True)
class JudgeAgreement(Artifact):
    """Agreement of judges."""

    agreement: dict[str, Any]


def make_agreement(context: StudyContext) -> JudgeAgreement:
    """Grade the labelled answers, and compare the judges on this run's."""
    grader = context.grader
    labels = agreement_with_labels(grader.probe, grader.fluency, grader.vader)
    answers = context.load(EVIDENCE).answers.drop_duplicates("answer")
    return JudgeAgreement(agreement_between_judges(answers) | {"labels": labels})


JUDGES = Step("judges", JudgeAgreement, make_agreement, inputs=("base", "device", "dtype", "panel", "evidence"))
