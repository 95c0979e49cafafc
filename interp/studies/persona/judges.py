"""Step `judges`: how far the judges agree with hand labels and with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import EVIDENCE


@dataclass(frozen=True)
class JudgeAgreement(Artifact):
    """Agreement of judges."""

    agreement: dict[str, Any]


def make_agreement(context: StudyContext) -> JudgeAgreement:
    """The judges on the trait's labels, and with each other on this run's answers."""
    return JudgeAgreement(context.panel.all_agreements(context.load(EVIDENCE).answers.drop_duplicates("answer")))


JUDGES = Step("judges", JudgeAgreement, make_agreement, inputs=("base", "device", "dtype", "panel", "evidence"))
