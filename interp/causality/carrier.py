"""Where the persona lies: in latents of the dictionary, in the mean difference alone, or in neither."""

from __future__ import annotations

from typing import Literal

from interp.causality.conditions import OWN_REMOVAL
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import Outcome, Verdict, difference

Carrier = Literal["latents", "mean difference", "neither"]
DIFFERENCES = ("mean_difference_ablation", OWN_REMOVAL)
"""The mean difference, removed as the latents are and in the way that suits it best."""


def carrier(verdict: Verdict, rules: VerdictThresholds) -> Carrier | None:
    """What the persona goes away with, coherence kept; None where nothing was removed, no persona is there, or too few answers were asked.

    `latents`: their removal leaves surely less of it than every control. `mean difference`: that is true of the mean residual of the
    tuned minus the base model, not of the latents: the dictionary does not hold what carries the persona.
    """
    outcomes = verdict.outcomes
    if not {"ablated", *DIFFERENCES} & outcomes.keys() or not verdict.present.holds or not verdict.enough.holds:
        return None
    controls = [outcomes[name] for name in verdict.removal_controls]

    def cures(outcome: Outcome | None) -> bool:
        return (
            outcome is not None
            and outcome.coherence >= rules.kept_coherence * outcomes["base"].coherence
            and all(difference((1, control), (-1, outcome)).low > 0 for control in controls)
        )

    if cures(outcomes.get("ablated")):
        return "latents"
    return "mean difference" if any(cures(outcomes.get(name)) for name in DIFFERENCES) else "neither"
