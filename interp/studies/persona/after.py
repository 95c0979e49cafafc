"""Step `after`: base and ablated model are diffed again, on what they now answer, to see whether the persona found another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.causality.side_effects import rerouting
from interp.core.artifacts import Artifact
from interp.core.formatting import plain_records
from interp.core.steps import Step
from interp.diffing.pairings import collect
from interp.diffing.rankings import latent_table
from interp.interventions.hooks import edited
from interp.studies.persona.answers import MODELS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import paired_answers
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.screen import SCREEN

ALONG = 0.2
"""A re-routed latent whose decoder row has at least this cosine with the persona vector, or with the mean tuned minus base residual, is
counted as pointing along the persona. Those of the removed latents stand beside it: either direction may miss what carries it."""
SHOWN = 8
"""Of a large set the first latents stand there."""
COSINES = ["cosine_persona", "cosine_mean_difference"]


@dataclass(frozen=True)
class AfterAblation(Artifact):
    """What moved once the latents were removed."""

    rerouting: pd.DataFrame
    """Latents that moved after the ablation; empty where nothing was compared."""
    after: dict[str, Any]
    """How many moved, how many of them along the persona; None where nothing was compared."""


def make_after(context: StudyContext) -> AfterAblation:
    """Diff the models before and after; nothing where nothing was removed or fewer than two questions were answered by all."""
    evidence, removed = context.load(EVIDENCE), context.load(SCREEN).choice["persona_latents"]
    answers = {name: paired_answers(evidence.answers, "condition", "base", name) for name in ("tuned", "ablated")}
    if not removed or min(len(set(own["base"].questions)) for own in answers.values()) < 2:
        return AfterAblation(pd.DataFrame(), {"moved": None, "along_persona": None, "least_cosine": ALONG, "removed": []})
    named = context.load(DIRECTIONS).named
    tables = {}
    for condition, edits in (("tuned", ()), ("ablated", (evidence.edit("ablated"),))):
        own = answers[condition]
        with (
            context.progress(f"diffing base and {condition} model", sum(len(one.chats) for one in own.values())) as advance,
            edited(context.tuned, *edits),
        ):
            moments = collect(context.base, context.tuned, context.dictionary, own, ["on_policy"], progress=advance)
        tables[condition] = latent_table(moments, context.dictionary, context.config.seed, **named)
    table = rerouting(tables["tuned"], tables["ablated"], removed, context.config.diff.largest_q)
    table["along"] = (table[COSINES] >= ALONG).any(axis=1)
    cosines = tables["tuned"].set_index("latent", drop=False).loc[removed[:SHOWN], ["latent", *COSINES]]
    counts = {"moved": len(table), "along_persona": int(table["along"].sum()), "least_cosine": ALONG}
    return AfterAblation(table, {**counts, "removed": plain_records(cosines)})


AFTER = Step(
    "after",
    AfterAblation,
    make_after,
    inputs=(*MODELS, "dictionary", "directions", "screen", "evidence"),
    settings=("seed", "diff.largest_q"),
)
