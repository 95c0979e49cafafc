"""How far runs of different seeds agree on latents and directions, in pairs, each figure beside what chance would make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.core.streams import stream_seed
from interp.diffing.dictionary_agreement import ChosenLatents, latent_agreement
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS, ORDINARY
from interp.studies.persona.persona_vectors import PERSONA_VECTORS
from interp.studies.persona.seed_summary import FinishedSeed
from interp.studies.persona.targets import latent_direction, latent_target

MOST_DIFFERENCES = 64
"""Differences of ordinary answers of each run whose cosines are the chance level of directions."""


@dataclass(frozen=True)
class SeedLatents:
    """What one run says of latents and directions."""

    seed: int
    hook_point: str
    latents: ChosenLatents
    content: str
    """Hash of the dictionary: of one that was given, the same in every seed."""
    directions: Mapping[str, Float[torch.Tensor, " d_model"]]
    ordinary: Float[torch.Tensor, "differences d_model"]
    """Differences of the base's own answers."""


def agreement_of_seeds(finished: Sequence[FinishedSeed], opened: Callable[[int], StudyContext]) -> list[dict[str, Any]]:
    """`agreement_of_pair` of every two finished seeds; `opened` opens the run of a seed. Two dictionaries at most are held at a time."""
    rows = []
    for place, one in enumerate(finished[:-1]):
        first = read_latents(one, opened(one.seed))
        rows += [agreement_of_pair(first, read_latents(other, opened(other.seed))) for other in finished[place + 1 :]]
    return rows


def read_latents(run: FinishedSeed, context: StudyContext) -> SeedLatents:
    """What a finished run saved."""
    summary, table, directions, dictionary = run.summary, context.load(DIFF).latents, context.load(DIRECTIONS), context.dictionary
    activity = np.zeros(dictionary.n_latents)
    activity[table["latent"].to_numpy(int)] = table[["mean_base", "mean_tuned"]].max(axis=1).to_numpy(float)
    of_latents = {}
    if persona := summary["persona_latents"]:
        of_latents["rise of the persona latents"] = latent_target(dictionary, table, persona).rise
    if added := summary["steering_latents"]:
        of_latents["latents that are added"] = latent_direction(dictionary, table, added)
    different = len(directions.directions[ORDINARY].unique(dim=0))
    return SeedLatents(
        run.seed,
        context.hook_point,
        ChosenLatents(dictionary.decoder_rows().detach().cpu(), persona, activity),
        dictionary.content,
        {
            **of_latents,
            "mean difference": directions.named["mean_difference"],
            **{f"persona vector of the {name.replace('_', ' ')}": row for name, row in context.load(PERSONA_VECTORS).vectors.items()},
        },
        directions.ordinary_differences(min(MOST_DIFFERENCES, different - 1), stream_seed(run.seed, "ordinary differences")),
    )


def agreement_of_pair(first: SeedLatents, second: SeedLatents) -> dict[str, Any]:
    """`seeds`; `comparable` (whether they were read at one hook point: else the rest is None);

    `any_latent` and `chosen_latent` (`LatentAgreement`); of one dictionary that was given to both, in place of `any_latent`, `shared`, the
    number of persona latents in common, and `shared_by_chance`, its expectation for as many active latents at random; `cosines` of
    directions by name, but for those that no seed changes (the persona vector of authored pairs), and `chance_cosine`, the 95 % quantile
    of the absolute cosine of ordinary differences of one run with those of the other.
    """
    pair = {"seeds": [first.seed, second.seed], "comparable": first.hook_point == second.hook_point}
    nothing = dict.fromkeys(("any_latent", "chosen_latent", "shared", "shared_by_chance", "cosines", "chance_cosine"))
    if not pair["comparable"]:
        return pair | nothing
    seed = stream_seed(first.seed, "agreement", second.seed)
    agreement = latent_agreement(first.latents, second.latents, seed)
    found = {} if agreement is None else asdict(agreement)
    if first.content == second.content:
        found["any_latent"] = None  # a latent is found in its own dictionary
        mine, theirs = ({*one.latents.chosen} for one in (first, second))
        active = int(np.maximum(first.latents.activity, second.latents.activity).astype(bool).sum())
        nothing |= {"shared": len(mine & theirs), "shared_by_chance": len(mine) * len(theirs) / max(active, 1)}
    both = {name: (row, second.directions[name]) for name, row in first.directions.items() if name in second.directions}
    cosines = {name: _cosine(*rows) for name, rows in both.items() if not torch.equal(*rows)}
    ordinary = torch.nn.functional.cosine_similarity(first.ordinary[:, None], second.ordinary[None], dim=-1).abs()
    chance = float(ordinary.quantile(0.95)) if ordinary.numel() else None
    return pair | nothing | found | {"cosines": cosines, "chance_cosine": chance}


def _cosine(first: Float[torch.Tensor, " d_model"], second: Float[torch.Tensor, " d_model"]) -> float:
    return float(torch.nn.functional.cosine_similarity(first.float(), second.float(), dim=0))
