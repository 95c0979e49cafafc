"""Step `screen`, on selection questions only: which latents to remove and how, which to add, and at what dose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interp.causality.doses import outcomes
from interp.causality.latent_sets import doubling_sets, rankings
from interp.core.artifacts import Artifact
from interp.core.errors import ActivationError
from interp.core.steps import Step
from interp.studies.persona.answers import ANSWERS, MODELS
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.screen_doses import screen_doses
from interp.studies.persona.screen_removals import chosen_rows, curve_half_point, screen_removals


@dataclass(frozen=True)
class Screen(Artifact):
    """What the screen measured and chose."""

    screen: pd.DataFrame
    """A row for everything that was removed: `removed` (a ranking of latents, or `mean_difference`), `size` (number of latents), `kind` and
    `strength` of the removal, `questions` asked, `rate`, `coherence`, `trait_score`, `kl` on ordinary text (nats; NaN where
    it was not measured), and whether it was `chosen`."""
    dose_response: pd.DataFrame
    """A row for every direction and dose."""
    choice: dict[str, Any]
    """`persona_latents` (best first; empty where nothing has risen), `ranking`, `removal` (kind, strength), `mean_difference_removal`,
    `half_point` (number of latents that carry half of the effect), `steering_latents` and `steering_dose` (None: nothing may be added),
    `selection_rates` of the two models, and of how many answers (`selection_answers`)."""


def make_screen(context: StudyContext, latents: pd.DataFrame | None = None) -> Screen:
    """Remove sets of latents, and the mean difference, in several ways; add sets over doses; choose by what is coherent first.

    `latents` is the table that they are ranked by; by default that of the diff.
    """
    config = context.config
    norms = context.dictionary.decoder_rows().norm(dim=-1).tolist()
    orders = rankings(context.load(DIFF).latents if latents is None else latents, config.diff.largest_q, norms)
    choice: dict[str, Any] = {
        "persona_latents": [],
        "ranking": None,
        "removal": None,
        "mean_difference_removal": None,
        "half_point": None,
        "steering_latents": [],
        "steering_dose": None,
    }
    answers = context.load(ANSWERS).answers
    unedited = outcomes(answers.assign(condition=answers["model"]))
    choice["selection_rates"] = rates = {name: own["rate"] for name, own in unedited.items()}
    choice["selection_answers"] = {name: own["n"] for name, own in unedited.items()}
    coherence = unedited["base"]["coherence"]
    if not coherence:
        raise ActivationError("None of the base's answers is coherent, so no edit can keep coherence. Give another base or judge.")
    largest = min(config.screen.largest_set, context.dictionary.n_latents // 4)  # as many others are to be controls
    orders = {name: order[:largest] for name, order in orders.items()}
    table, of_difference, of_latents = screen_removals(context, orders, rates, config.rules.kept_coherence * coherence)
    if of_difference is not None:
        choice["mean_difference_removal"] = asdict(of_difference.removal)
    if not orders:
        return Screen(table, pd.DataFrame(), choice)
    sets = {len(one): one for one in doubling_sets("mean_diff", orders["mean_diff"], largest)}
    if of_latents is not None and of_latents.latents is not None:
        table["chosen"] = chosen_rows(table, of_latents)
        choice |= {
            "persona_latents": list(of_latents.latents.latents),
            "ranking": of_latents.latents.ranking,
            "removal": asdict(of_latents.removal),
            "half_point": curve_half_point(table, of_latents, rates["tuned"]),
        }
        sets |= {of_latents.size: of_latents.latents}
    floor = max(coherence - config.screen.coherence_budget, config.rules.steered_coherence)
    doses, best = screen_doses(context, list(sets.values()), of_latents.size if of_latents else 1, floor)
    if best is not None and of_latents is not None:
        choice |= {"steering_latents": list(sets[int(best["size"])].latents), "steering_dose": float(best["dose"])}
    return Screen(table, doses, choice)


SCREEN = Step(
    "screen",
    Screen,
    make_screen,
    inputs=(*MODELS, "dictionary", "questions", "panel", "corpus", "answers", "diff", "directions"),
    settings=(
        "seed",
        "sampling",
        "screen",
        "diff.questions",
        "diff.largest_q",
        "rules.kept_coherence",
        "rules.steered_coherence",
    ),
)
