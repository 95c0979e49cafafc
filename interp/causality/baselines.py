"""What latents give beyond directions that need no dictionary, in words and by stated rules: also where it is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from interp.causality.conditions import OWN_REMOVAL
from interp.causality.thresholds import VerdictThresholds
from interp.causality.verdict import Outcome, difference, percent, points, rate_text
from interp.stats.contrasts import Contrast

BASELINES = {
    "mean_difference": "the mean difference",
    "principal_directions": "the principal directions",
    "persona_vector": "the persona vector",
}
"""References that are removed and added as the latents are, and what they are called."""
OWN_WAY = {OWN_REMOVAL: "the mean difference in the way that suits it best"}
NORMAL = NormalDist()
ALIKE = 0.15
"""Two rates are called alike where the interval of their difference lies within this; wider ones tell nothing."""


def beyond_baselines(outcomes: Mapping[str, Outcome], rules: VerdictThresholds, word: str) -> str | None:
    """What removing and adding the latents does that no baseline does; None where none was measured.

    Only baselines that keep coherence by `rules` compete. The latents do better where the interval of the paired difference lies beyond 0
    for every one of them, worse where it lies below 0 for one (widened by Bonferroni's rule, as there are several); as well where that of
    the best lies within `ALIKE` of 0; else it cannot be told. `word` is the trait's for answers that show it.
    """
    coherence = {"ablated": rules.kept_coherence * outcomes["base"].coherence, "steered": rules.steered_coherence}
    sides = [_Side("Removing", "ablated", "tuned", "ablation", -1), _Side("Adding", "steered", "base", "steering", 1)]
    said = [_compared(outcomes, side, coherence[side.treated], word) for side in sides if side.treated in outcomes]
    return " ".join(filter(None, said)) or None


@dataclass(frozen=True)
class _Side:
    doing: str
    treated: str
    unedited: str
    edit: str
    sign: int
    """1 where the latents are to raise the rate."""

    def gain(self, one: Outcome, other: Outcome) -> Contrast:
        """How much more of the effect `one` has than `other`."""
        return difference((self.sign, one), (-self.sign, other))


def _compared(outcomes: Mapping[str, Outcome], side: _Side, floor: float, word: str) -> str | None:
    latents, doing = outcomes[side.treated], side.doing
    names = {f"{key}_{side.edit}": name for key, name in BASELINES.items()} | (OWN_WAY if side.edit == "ablation" else {})
    measured = {name: outcomes[condition] for condition, name in names.items() if condition in outcomes}
    if not measured:
        return None
    if not latents.coherence >= floor:
        return f"{doing} the latents leaves {percent(latents.coherence)} of the answers coherent, too few to hold them against a baseline."
    usable = {name: outcome for name, outcome in measured.items() if outcome.coherence >= floor and outcome.rate.n}
    if not usable:
        return f"{doing} {' or '.join(measured)} leaves too few answers coherent; {doing.lower()} the latents does not."
    gains = {name: side.gain(latents, outcome) for name, outcome in usable.items()}
    widened = NORMAL.inv_cdf(1 - 0.025 / len(gains)) / NORMAL.inv_cdf(0.975)  # Bonferroni: any one of them may beat the latents

    def loses(gain: Contrast) -> bool:
        return gain.value + widened * (gain.high - gain.value) < 0

    best = min(gains, key=lambda name: (not loses(gains[name]), gains[name].value))
    gain = gains[best]
    both = {best: usable[best], "the latents": latents}
    figures = " against ".join(f"{rate_text(own)} {word}, {percent(own.coherence)} coherent with {name}" for name, own in both.items())
    if loses(gain):
        return f"{doing} {best} does surely more than {doing.lower()} the latents: {figures}; they gain {points(gain)}."
    if all(one.low > 0 for one in gains.values()):
        return f"{doing} the latents does surely more than any baseline, the best of which is {best}: {figures}; they gain {points(gain)}."
    if not any(side.gain(own, outcomes[side.unedited]).low > 0 for own in (latents, *usable.values())):
        return f"{doing} neither the latents nor a baseline surely does anything: {figures}."
    if max(-gain.low, gain.high) <= ALIKE:
        return f"{doing} {best} does as well as {doing.lower()} the latents: {figures}. The latents say where it lies, not more."
    return f"Whether {doing.lower()} the latents does more than {doing.lower()} {best} cannot be told: {figures}; they gain {points(gain)}."
