"""Step `user_tokens`: whether the persona latents are more active in the tuned model already where a harmless user speaks.

Nothing has been answered there, so what differs is how the fine-tuned model reads. Wang et al. 2025, arXiv:2506.19823, found persona
latents active on such tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float

from interp.core.artifacts import Artifact
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.dictionaries.dictionary import Dictionary
from interp.models.activations import capture
from interp.models.chats import Chat, Role, TokenBatch
from interp.models.language_model import LanguageModel
from interp.stats.false_discovery import bootstrap_means
from interp.studies.persona.answers import MODELS, evenly_spaced
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.targets import latent_target

CHATS = 64


@dataclass(frozen=True)
class UserTokens(Artifact):
    """Activation of the persona latents on the user's tokens of ordinary chats, in both models."""

    chats: pd.DataFrame
    """A row for each chat: `question`, `tokens`; `base` and `tuned`, the mean activation (`activity`); `fires_base`, `fires_tuned`."""
    activation: dict[str, Any]
    """`base`, `tuned` (means over chats), `difference` with `low` and `high` (bootstrap over chats); `fires_base`, `fires_tuned` (shares of
    chats), `higher` (share of chats with more in the tuned model); `chats`, `tokens`. Empty where no latent was chosen, and for a
    crosscoder, whose latents have one activation for both models."""


def make_user_tokens(context: StudyContext) -> UserTokens:
    """Both models read the prompts of ordinary chats."""
    latents, dictionary = context.load(SCREEN).choice["persona_latents"], context.dictionary
    if not latents or dictionary.n_models > 1:
        return UserTokens(pd.DataFrame(), {})
    rise = latent_target(dictionary, context.load(DIFF).latents, latents).rise
    chats = [chat.prompt for chat in evenly_spaced(context.corpus, CHATS)]
    with context.progress("reading what users say", 2 * len(chats)) as advance:
        base, tuned = (activity(model, dictionary, latents, rise, chats, advance) for model in (context.base, context.tuned))
    table = pd.DataFrame(
        {
            "question": [chat.messages[-1].content for chat in chats],
            "tokens": base["tokens"],
            "base": base["activation"],
            "tuned": tuned["activation"],
            "fires_base": base["fires"],
            "fires_tuned": tuned["fires"],
        }
    )
    table = table[table["tokens"] > 0].reset_index(drop=True)
    if len(table) < 2:
        return UserTokens(table, {})
    return UserTokens(table, _summarised(table, stream_seed(context.config.seed, "user tokens")))


def activity(
    model: LanguageModel,
    dictionary: Dictionary,
    latents: Sequence[int],
    rise: Float[torch.Tensor, " d_model"],
    chats: Sequence[Chat],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float[torch.Tensor, " chats"]]:
    """`activation` of the latents, the mean over each chat's user tokens; whether any `fires` there; how many `tokens` there are.

    The activation of a set is what its latents write along their rise, over the rise: Σ_j a_j ⟨d_j, r⟩ / ‖r‖². So 1 is as much as the rise
    from the base's answers to the tuned model's, and a latent counts as much as it does in the rise. Zero for a chat without a token.
    """
    weights = torch.zeros(dictionary.n_latents)
    weights[list(latents)] = dictionary.decoder_rows()[list(latents)].cpu().float() @ rise / rise.square().sum()
    member = torch.zeros(dictionary.n_latents)
    member[list(latents)] = 1.0
    sums, fired, tokens = torch.zeros(3, len(chats), dtype=torch.float64)
    for captured in capture(model, chats, [dictionary.hook_point], progress=progress):
        chosen = captured.select(user_tokens)
        owner = torch.tensor(captured.rows)[chosen.nonzero()[:, 0].cpu()]
        codes = dictionary.encode(captured.residuals[dictionary.hook_point][chosen].float())
        entries, values = codes.latents.long().cpu(), codes.values.cpu()
        of_chat = owner[codes.tokens.cpu()]
        sums.index_add_(0, of_chat, (values * weights[entries]).double())
        fired.index_add_(0, of_chat, (member[entries] * (values > 0)).double())
        tokens.index_add_(0, owner, torch.ones(len(owner), dtype=torch.float64))
    return {"activation": sums / tokens.clamp(min=1), "fires": fired > 0, "tokens": tokens.long()}


def user_tokens(batch: TokenBatch) -> Bool[torch.Tensor, "batch position"]:
    """True at what the user wrote."""
    return batch.roles == Role.USER


def _summarised(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    difference = (table["tuned"] - table["base"]).to_numpy()
    (low,), (high,) = bootstrap_means(difference[:, None], seed)
    means = {name: float(table[name].mean()) for name in ("base", "tuned", "fires_base", "fires_tuned")}
    interval = {"difference": float(difference.mean()), "low": float(low), "high": float(high)}
    return {**means, **interval, "higher": float((difference > 0).mean()), "chats": len(table), "tokens": int(table["tokens"].sum())}


USER_TOKENS = Step(
    "user_tokens", UserTokens, make_user_tokens, inputs=(*MODELS, "dictionary", "corpus", "diff", "screen"), settings=("seed",)
)
