"""Step `persona_vectors`: the vector of the trait's pairs beside one of the models' own answers, and how far they agree.

Authored pairs may speak in another voice than the fine-tune; their vector points elsewhere then.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float

from interp.core.artifacts import Artifact
from interp.core.errors import ActivationError, DictionaryWarning
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.diffing.persona_vectors import cosine, cosine_interval, paired_differences, split_half_cosine
from interp.diffing.rankings import cosine_with
from interp.evaluation.counted_answers import flags
from interp.models.activations import mean_residuals, response_residuals
from interp.models.chats import Chat
from interp.studies.elicitation import PairSampling, sample_pairs
from interp.studies.persona.answers import ANSWERS, as_chats
from interp.studies.persona.config import VectorConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.screen import SCREEN, Screen, make_screen

FEWEST = 4
"""Questions with answers of both kinds that a vector is made of at least."""


@dataclass(frozen=True)
class PersonaVectors(Artifact):
    """Persona vectors at the dictionary's hook point, all read by the base, and how far they agree."""

    vectors: dict[str, torch.Tensor]
    """`pairs`: that of `directions`. `answers`: mean residual of both models' answers to selection questions that show the trait less that
    of those that do not, paired by question; absent where fewer than `FEWEST` questions have both. `system_prompts`: of pairs that the base
    answers under the trait's positive and negative system prompts, where `vectors.elicited` asks for it."""
    agreement: dict[str, Any]
    """`questions` with answers of both kinds, and how many answers were `shown` and `not_shown`; `split_half`: cosine between the answers'
    vectors of two halves of the questions; `cosines`: of the other vectors with it (`cosine`, `low`, `high`); `with_mean_difference`:
    cosine of each with the mean difference; `ranked_along`; `doubt`: why the vector that latents are ranked along may be a poor one, or
    None."""


def make_persona_vectors(context: StudyContext) -> PersonaVectors:
    """Let the base read both models' answers, and compare."""
    directions, config, hook_point = context.load(DIRECTIONS), context.config.vectors, context.hook_point
    seed = stream_seed(context.config.seed, "persona vectors")
    answers = context.load(ANSWERS).answers
    answers = answers[answers["answer"] != ""].reset_index(drop=True)
    shows = flags(answers, "shows_trait")
    residuals = torch.stack([own.mean(0) for own in response_residuals(context.base, as_chats(answers), hook_point)])
    differences = paired_differences(residuals, shows, list(answers["question_id"]))
    vectors = {"pairs": directions.named["persona_vector"]}
    if config.elicited:
        vectors["system_prompts"] = _elicited(context, seed)
    agreement: dict[str, Any] = {"questions": len(differences), "shown": shows.count(True), "not_shown": shows.count(False)}
    agreement |= {"split_half": None, "cosines": {}}
    if len(differences) >= FEWEST:
        own = differences.mean(0)
        agreement["split_half"] = split_half_cosine(differences, seed)
        for name, vector in vectors.items():
            low, high = cosine_interval(differences, vector, seed)
            agreement["cosines"][name] = {"cosine": cosine(own, vector), "low": low, "high": high}
        vectors["answers"] = own
    difference = directions.named["mean_difference"]
    agreement["with_mean_difference"] = {name: cosine(vector, difference) for name, vector in vectors.items()}
    agreement |= {"ranked_along": config.ranked_along, "doubt": doubt_of(agreement, config)}
    if agreement["doubt"]:
        warnings.warn(agreement["doubt"], DictionaryWarning, stacklevel=2)
    return PersonaVectors(vectors, agreement)


def _elicited(context: StudyContext, seed: int) -> Float[torch.Tensor, " d_model"]:
    """The persona vector by the recipe of Chen et al. 2025, arXiv:2507.21509: of the base's own answers under system prompts."""
    settings = PairSampling.of(context.config.diff.persona_pairs)
    pairs = sample_pairs(context.base, context.panel, seed, settings, context.quiet).pairs
    shown, not_shown = (
        mean_residuals(context.base, chats, [context.hook_point])[context.hook_point]
        for chats in ([Chat.ask(one.question, one.shows) for one in pairs], [Chat.ask(one.question, one.not_shown) for one in pairs])
    )
    return shown - not_shown


def doubt_of(agreement: dict[str, Any], config: VectorConfig) -> str | None:
    """Why the vector that latents are ranked along may be a poor one, in a sentence; None where nothing speaks against it."""
    split_half, least = agreement["split_half"], config.smallest_split_half
    known = split_half is not None and split_half >= least
    if config.ranked_along == "answers":
        if known or split_half is None:
            return None
        return (
            f"Halves of the models' answers give persona vectors with cosine {split_half:.2f}, below {least:g}: latents are ranked along "
            "what is mostly noise. Ask more (diff.questions, diff.samples), or rank along the pairs (vectors.ranked_along)."
        )
    if not known or agreement["cosines"]["pairs"]["cosine"] >= config.smallest_cosine:
        return None
    return (
        "The persona vector of the trait's pairs has cosine {cosine:.2f} [{low:.2f}, {high:.2f}] with that of the models' own answers, "
        "below {least:g}: the pairs speak in another voice than this fine-tune. One of the two orders in which latents are tried follows "
        "the pairs; set vectors.ranked_along=answers for the other."
    ).format(**agreement["cosines"]["pairs"], least=config.smallest_cosine)


def screen_along_answers(context: StudyContext) -> Screen:
    """The screen, with latents ranked along the vector of the models' own answers. Raises `ActivationError` where there is none."""
    vectors = context.load(PERSONA_VECTORS)
    if "answers" not in vectors.vectors:
        raise ActivationError(
            f"{vectors.agreement['questions']} selection questions have both an answer that shows the trait and one that does not, fewer "
            f"than {FEWEST}: there is no persona vector of the models' own answers. Ask more (diff.questions), or rank along the pairs "
            "(vectors.ranked_along)."
        )
    cosines = cosine_with(context.dictionary.decoder_rows(), vectors.vectors["answers"])
    latents = context.load(DIFF).latents
    return make_screen(context, latents.assign(cosine_persona=cosines[latents["latent"]]))


PERSONA_VECTORS = Step(
    "persona_vectors",
    PersonaVectors,
    make_persona_vectors,
    inputs=("base", "device", "dtype", "answers", "directions", "panel", "hook_point"),
    settings=("seed", "vectors", "diff.persona_pairs"),
)
SCREEN_ALONG_ANSWERS = replace(SCREEN, make=screen_along_answers, inputs=(*SCREEN.inputs, PERSONA_VECTORS.name))
