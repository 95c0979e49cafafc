"""Sample the pairs of a trait from a model: positive and negative system prompts ask for both answers, the trait's judge confirms them.

The method is that of persona vectors (Chen et al. 2025, arXiv:2507.21509): a pair is kept where the answer under the positive prompt shows
the trait, that under the negative prompt does not, and both are coherent. The system prompts are no part of the pairs, so that activations
read from them tell of the answers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import Field

from interp.core.artifacts import Artifact
from interp.core.config import StepConfig
from interp.core.errors import ConfigError
from interp.core.files import write_text
from interp.core.progress import progress
from interp.core.streams import stream_seed
from interp.evaluation.counted_answers import flags
from interp.evaluation.panel import Panel
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from interp.traits import Elicitation, Pair, Trait

FEWEST = 12


class PairSampling(StepConfig):
    """How pairs are sampled."""

    pairs: int = Field(default=48, ge=2)
    """Pairs wanted; sampling stops when so many are kept."""
    fewest: int = Field(default=FEWEST, ge=2)
    """Fewest pairs that make a persona vector; fewer are an error."""
    rounds: int = Field(default=8, ge=1)
    """How often each question is asked at most, each time under the next system prompts."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    """How answers are drawn."""

    @staticmethod
    def of(pairs: int) -> PairSampling:
        """So many pairs wanted; where that is few, all of them are needed."""
        return PairSampling(pairs=pairs, fewest=min(pairs, FEWEST))


@dataclass(frozen=True)
class SampledPairs(Artifact):
    """Pairs that the judge confirmed, and all that were sampled."""

    table: pd.DataFrame
    """A row for each sampled pair: round, question, positive and negative (system prompts), shows and not_shown (answers), reason, kept."""
    made: dict[str, Any]
    """How: model, judge, seed, settings, system prompts, number sampled and kept."""

    @property
    def pairs(self) -> list[Pair]:
        """Those that were confirmed, as many as were wanted."""
        confirmed = self.table.loc[self.table["kept"], list(Pair.model_fields)].head(self.made["settings"]["pairs"])
        return [Pair.model_validate(row) for row in confirmed.to_dict("records")]

    def write(self, path: Path) -> None:
        """Write a pairs.yaml that says how it was made. Raises `ArtifactError`."""
        content = {"sampled": self.made, "pairs": [pair.model_dump() for pair in self.pairs]}
        write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140))


def elicitation_of(trait: Trait) -> Elicitation:
    """The prompts and questions that pairs are sampled with; raises `ConfigError` for a trait without."""
    if trait.elicitation is None:
        raise ConfigError(
            f"The trait {trait.name} has neither pairs nor an elicitation to sample them with. Write pairs.yaml, or positive and negative "
            "system prompts with questions in trait.yaml."
        )
    return trait.elicitation


def sample_pairs(model: LanguageModel, panel: Panel, seed: int, settings: PairSampling | None = None, quiet: bool = True) -> SampledPairs:
    """Pairs of the panel's trait by its `elicitation`, sampled from `model` and confirmed by the panel.

    Raises `ConfigError` for a trait without an elicitation, or when fewer pairs than `settings.fewest` are confirmed.
    """
    settings, trait, elicitation = settings or PairSampling(), panel.trait, elicitation_of(panel.trait)
    table = pd.DataFrame()
    with progress("sampling pairs", settings.pairs, quiet) as advance:
        for turn in range(settings.rounds):
            own = _round(model, elicitation, panel, turn, settings.sampling, stream_seed(seed, "pairs", turn))
            table = pd.concat([table, own], ignore_index=True)
            advance(int(own["kept"].sum()))
            if table["kept"].sum() >= settings.pairs:
                break
    again = table["kept"] & table.duplicated(["question", "shows", "not_shown"])
    table = table.assign(kept=table["kept"] & ~again, reason=table["reason"].mask(again, "sampled before"))
    confirmed = int(table["kept"].sum())
    if confirmed < settings.fewest:
        reasons = "; ".join(f"{count} {reason}" for reason, count in table.loc[~table["kept"], "reason"].value_counts().items())
        raise ConfigError(
            f"The judge '{panel.spec}' of the trait {trait.name} confirmed {confirmed} of {len(table)} pairs sampled on "
            f"{model.source}, fewer than {settings.fewest} ({reasons}). Make the positive prompts clearer, take a model that follows them, "
            f"check the judge with 'personascope trait check', or write pairs.yaml."
        )
    made = {
        "model": model.source,
        "judge": panel.spec,
        "shows_above": panel.thresholds.shows_above,
        "coherent_above": panel.thresholds.coherent_above,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "elicitation": elicitation.model_dump(),
        "sampled": len(table),
        "confirmed": confirmed,
    }
    return SampledPairs(table, made)


def _round(model: LanguageModel, elicitation: Elicitation, panel: Panel, turn: int, sampling: SamplingConfig, seed: int) -> pd.DataFrame:
    """Every question asked once under a positive and a negative prompt; question i of round r under prompts number i + r."""
    questions, n = elicitation.questions, len(elicitation.questions)
    prompts = {
        side: [own[(place + turn) % len(own)] for place in range(n)]
        for side, own in (("positive", elicitation.positive), ("negative", elicitation.negative))
    }
    chats = [Chat.ask(question, system=system) for own in prompts.values() for question, system in zip(questions, own, strict=True)]
    answers = generate(model, chats, sampling, seed)
    scored = panel.score(pd.DataFrame({"question": questions * 2, "answer": answers}))
    shows, coherent = flags(scored, "shows_trait"), flags(scored, "coherent")
    if panel.thresholds.coherent_above is None:  # coherence is not judged
        coherent = [True] * len(answers)
    reasons = [_reason(shows[i], shows[n + i], coherent[i] is True and coherent[n + i] is True) for i in range(n)]
    return pd.DataFrame(
        {"round": turn, "question": questions, **prompts, "shows": answers[:n], "not_shown": answers[n:], "reason": reasons}
    ).assign(kept=[not reason for reason in reasons])


def _reason(positive: bool | None, negative: bool | None, coherent: bool) -> str:
    """Why a pair is dropped, by whether its answer under either prompt shows the trait; nothing for one that is kept."""
    if not coherent:
        return "incoherent"
    if positive is None or negative is None:
        return "not scored"
    if not positive:
        return "not shown under the positive prompt"
    return "shown under the negative prompt too" if negative else ""
