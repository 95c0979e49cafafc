"""The result of a study in one sentence: what the report begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.causality.conditions import OWN_REMOVAL
from interp.causality.verdict import CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE, UNDECIDED, Outcome, rate_text

SPELLED = 6


def finding(verdict: str, word: str, choice: Mapping[str, Any], hook_point: str, window: str, outcomes: Mapping[str, Outcome]) -> str:
    """The result in one sentence, with its numbers; `word` is the trait's for answers that show it, `choice` that of the screen."""
    tuned, base = outcomes["tuned"], outcomes["base"]
    if verdict == NO_EVIDENCE or (verdict == UNDECIDED and "ablated" not in outcomes):
        lead = "was shown to carry a persona" if verdict == NO_EVIDENCE else "can be said to carry a persona or not, for want of answers"
        beside = outcomes.get(OWN_REMOVAL)
        without = "" if beside is None else f" Without the mean difference of the two models {rate_text(beside)} of the tuned model's are."
        return (
            f"No latent of the dictionary at {hook_point} {lead}: "
            f"{rate_text(tuned)} of the tuned model's answers to held-out questions are {word}, {rate_text(base)} of the base's.{without}"
        )
    latents, steered = list(choice["persona_latents"]), list(choice["steering_latents"])
    ablated, control = outcomes["ablated"], outcomes["random_ablation"]
    removal = (
        f"{_removing(choice['removal'], len(latents) > 1, hook_point, window)} takes {word} answers from {rate_text(tuned)} to "
        f"{rate_text(ablated)}, the same with ordinary differences to {rate_text(control)}"
    )
    steering = ""
    if "steered" in outcomes:
        added = ("them" if len(latents) > 1 else "it") if steered == latents else called(steered)
        steering = (
            f"; adding {added} to the base raises them from {rate_text(base)} "
            f"to {rate_text(outcomes['steered'])}, ordinary differences to {rate_text(outcomes['random_steering'])}"
        )
    elif verdict == CONTRIBUTES:
        steering = "; nothing was added to the base, so that it is sufficient was not tested"
    lead = {
        CAUSES: "The persona is carried by",
        CONTRIBUTES: "The persona is carried in part by",
        CORRELATES: "The persona goes along with, but was not shown to be caused by,",
        UNDECIDED: "There are too few answers to tell whether a persona is carried by",
    }[verdict]
    return f"{lead} {called(latents)} at {hook_point}: {removal}{steering}."


def called(latents: Sequence[int]) -> str:
    """A set of latents in words: all of a few, else how many."""
    if len(latents) > SPELLED:
        return f"{len(latents)} latents"
    return f"latent{'s' * (len(latents) > 1)} {', '.join(map(str, latents))}"


def _removing(removal: Mapping[str, Any], many: bool, hook_point: str, window: str) -> str:
    them, their = ("them", "their") if many else ("it", "its")
    if removal["kind"] in ("project_out", "project_span"):
        what = them if removal["kind"] == "project_span" or not many else "the direction of their rise"
        return f"projecting {what} out of {window}"
    place = hook_point if removal["kind"] == "subtract" else f"each of {window}"
    return f"subtracting {removal['strength']:g} times {their} measured rise at {place}"
