"""Step `pairs`: the base's answers under the trait's positive and negative system prompts, for a trait that has no pairs of its own."""

from __future__ import annotations

from interp.core.steps import Step
from interp.studies.elicitation import PairSampling, SampledPairs, sample_pairs
from interp.studies.persona.context import StudyContext


def make_pairs(context: StudyContext) -> SampledPairs:
    """Sample as many pairs as the persona vector is made of; those that the judge confirms are kept."""
    return sample_pairs(context.base, context.panel, context.config.seed, PairSampling.of(context.config.diff.persona_pairs), context.quiet)


PAIRS = Step("pairs", SampledPairs, make_pairs, inputs=("base", "device", "dtype", "panel"), settings=("seed", "diff.persona_pairs"))
