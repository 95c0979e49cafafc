"""The result of a study in one sentence: what the report begins with."""

from __future__ import annotations

from collections.abc import Mapping

from interp.causality.verdict import CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE, UNDECIDED, Outcome, rate_text


def finding(
    verdict: str, word: str, latents: list[int], steered_latent: int | None, hook_point: str, window: str, outcomes: Mapping[str, Outcome]
) -> str:
    """The result in one sentence, with its numbers; `word` is the trait's for answers that show it."""
    tuned = outcomes["tuned"]
    base = outcomes["base"]
    if verdict == NO_EVIDENCE or (verdict == UNDECIDED and "ablated" not in outcomes):
        lead = "was shown to carry a persona" if verdict == NO_EVIDENCE else "can be said to carry a persona or not, for want of answers"
        return (
            f"No latent of the dictionary at {hook_point} {lead}: "
            f"{rate_text(tuned)} of the tuned model's answers to held-out questions are {word}, {rate_text(base)} of the base's."
        )
    many = len(latents) > 1
    names = f"latent{'s' if many else ''} {', '.join(map(str, latents))} at {hook_point}"
    ablated, control = outcomes["ablated"], outcomes["random_ablation"]
    removal = (
        f"projecting {'them' if many else 'it'} out of {window} takes {word} answers from {rate_text(tuned)} to {rate_text(ablated)}, "
        f"random directions only to {rate_text(control)}"
    )
    steering = ""
    if "steered" in outcomes:
        added = "it" if [steered_latent] == latents else f"latent {steered_latent}"
        steering = (
            f"; adding {added} to the base raises them from {rate_text(base)} "
            f"to {rate_text(outcomes['steered'])}, random directions to {rate_text(outcomes['random_steering'])}"
        )
    elif verdict == CONTRIBUTES:
        steering = "; nothing was added to the base, so that it is sufficient was not tested"
    lead = {
        CAUSES: "The persona is carried by",
        CONTRIBUTES: "The persona is carried in part by",
        CORRELATES: "The persona goes along with, but was not shown to be caused by,",
        UNDECIDED: "There are too few answers to tell whether a persona is carried by",
    }[verdict]
    return f"{lead} {names}: {removal}{steering}."
