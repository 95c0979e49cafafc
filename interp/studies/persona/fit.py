"""Step `fit`: whether the dictionary holds what fine-tuning changed, so that its latents can answer for it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.core.artifacts import Artifact
from interp.core.errors import ArtifactError, DictionaryWarning
from interp.core.formatting import plain
from interp.core.steps import Step
from interp.diffing.moments import load_diff
from interp.diffing.reconstruction import dictionary_fit
from interp.studies.persona.config import FitConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF

HIDDEN = "More is hidden from its latents than they show."
NO_LATENT = "A persona may lie where no latent is."
REMEDY = "Try other layers (layers, hook_point), or a dictionary trained on more text of both models."
SPURIOUS = "Its latents differ where the models do not."


@dataclass(frozen=True)
class DictionaryFit(Artifact):
    """What the dictionary holds of both models' answers."""

    fit: dict[str, Any]
    """`fvu_base`, `fvu_tuned`, `share_of_mean_difference`, `share_of_paired_difference` (`dictionary_fit`; None where nothing differs),
    `tokens_base`, `tokens_tuned` that they were measured on, and `doubts`: why latents cannot answer for the fine-tune, in sentences."""


def make_fit(context: StudyContext) -> DictionaryFit:
    """Measured on the texts that the diff read. Raises `ArtifactError` for a diff that an earlier version made."""
    file = context.load(DIFF).moments
    texts = load_diff(file)[0].reconstructions
    if not texts:
        raise ArtifactError(
            f"{file} does not say what the dictionary reconstructs: an earlier version made it. Delete its folder and run again."
        )
    fit = {name: plain(value) for name, value in dictionary_fit(texts["base"], texts["tuned"]).items()}
    counts = {f"tokens_{name}": int(text.tokens.sum()) for name, text in texts.items()}
    doubts = doubts_of(fit, context.config.fit)
    for doubt in doubts:
        warnings.warn(doubt, DictionaryWarning, stacklevel=2)
    return DictionaryFit({**fit, **counts, "doubts": doubts})


def doubts_of(fit: Mapping[str, float | None], limits: FitConfig) -> list[str]:
    """Why latents of a dictionary with these figures cannot answer for the fine-tune, in sentences; empty where they can."""
    rules = [  # what, the figure, its limit, whether it must not exceed it, and what it means beyond
        ("the variance of the base's answers that it leaves unexplained", "fvu_base", limits.largest_fvu, True, HIDDEN),
        ("the variance of the tuned model's answers that it leaves unexplained", "fvu_tuned", limits.largest_fvu, True, HIDDEN),
        (
            "the mean difference between the models that it reconstructs",
            "share_of_mean_difference",
            limits.smallest_mean_share,
            False,
            NO_LATENT,
        ),
        (
            "the difference between the models on single tokens that it reconstructs",
            "share_of_paired_difference",
            limits.smallest_paired_share,
            False,
            SPURIOUS,
        ),
    ]
    return [
        f"The dictionary may not hold what fine-tuning changed: the share of {what} is {value:.2f}, "
        f"{'above' if most else 'below'} {limit:g}. {meaning} {REMEDY}"
        for what, name, limit, most, meaning in rules
        if (value := fit[name]) is not None and (value > limit if most else value < limit)
    ]


FIT = Step("fit", DictionaryFit, make_fit, inputs=("diff",), settings=("fit",))
