"""Which latents are active at which token of a text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from interp.core.errors import ActivationError
from interp.dictionaries.dictionary import Dictionary
from interp.models.chats import Chat, Role, pad_left
from interp.models.language_model import LanguageModel
from interp.sparse import Codes

SHOWN = 3


@dataclass(frozen=True)
class TokenLatents:
    """Latent activations of one text, aligned to its tokens."""

    tokens: list[str]
    """Text of every token."""
    roles: list[str]
    """Whose each token is: template, system, user or response."""
    codes: Codes
    """Activations, token after token."""

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, latent: int) -> pd.Series:
        """Activation of one latent at every token, indexed by position; 0 where it is off."""
        if not 0 <= latent < self.codes.n_latents:
            raise ActivationError(f"The dictionary has latents 0 to {self.codes.n_latents - 1}, not {latent}.")
        here = self.codes.latents == latent
        values = torch.zeros(len(self)).index_put((self.codes.tokens[here].cpu(),), self.codes.values[here].float().cpu())
        return pd.Series(values.numpy(), name=f"latent {latent}")

    def to_frame(self) -> pd.DataFrame:
        """A row for every active latent of every token: position, token, role, latent, activation; strongest first within a token."""
        positions = self.codes.tokens.cpu().numpy()
        rows = pd.DataFrame(
            {
                "position": positions,
                "token": [self.tokens[position] for position in positions],
                "role": [self.roles[position] for position in positions],
                "latent": self.codes.latents.cpu().numpy(),
                "activation": self.codes.values.detach().float().cpu().numpy(),
            }
        )
        active = rows[rows["activation"] > 0]
        return active.sort_values(["position", "activation"], ascending=[True, False], kind="stable", ignore_index=True)

    def __repr__(self) -> str:
        table = self.to_frame()
        lines = []
        for position, token in enumerate(self.tokens):
            top = table[table["position"] == position].head(SHOWN)
            lines.append(f"{token!r:>16}  " + "  ".join(f"{row.latent}:{row.activation:.2f}" for row in top.itertuples()))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The text, each token with its strongest latents as a tooltip, darker where the strongest is stronger."""
        table = self.to_frame()
        strongest = table.groupby("position")["activation"].max()
        beyond = strongest[strongest.index > 0]  # the first token, an attention sink, would pale all others
        most = float((beyond if len(beyond) else strongest).max()) if len(strongest) else 1.0
        spans = []
        for position, token in enumerate(self.tokens):
            top = table[table["position"] == position].head(SHOWN)
            title = ", ".join(f"latent {row.latent}: {row.activation:.2f}" for row in top.itertuples()) or "no active latent"
            shade = min(1.0, float(strongest.get(position, 0.0)) / most)
            text = html.escape(token).replace("\n", "⏎<br>")
            spans.append(f'<span title="{html.escape(title)}" style="background:rgba(208,96,32,{0.6 * shade:.2f})">{text}</span>')
        return f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.7">{"".join(spans)}</div>'


def token_latents(
    dictionary: Dictionary, models: LanguageModel | Sequence[LanguageModel], text: str | Chat, which: int = 0
) -> TokenLatents:
    """Latent activations at every token of `text`, read at the dictionary's hook point.

    A `Chat` is read in the model's template, a string as it is. An SAE reads the model at place `which`; a crosscoder reads all its
    models, and the activations are those of the model at that place. Raises `ActivationError` for a text without a token.
    """
    several = [models] if isinstance(models, LanguageModel) else list(models)
    model = several[which]
    tokenised = model.tokenise([text])
    if not tokenised[0].ids:
        raise ActivationError("The text is empty: give one with at least one token.")
    batch = pad_left(tokenised, model.pad_id).to(model.device)
    with torch.inference_mode():
        residuals = dictionary.residuals_of(several, which, batch, [0], batch.mask)
        codes = dictionary.encode_models(residuals)[which if dictionary.n_models > 1 else -1]
    tokens = [model.tokenizer.decode([token]) for token in batch.ids[batch.mask].tolist()]
    return TokenLatents(tokens, [Role(role).name.lower() for role in batch.roles[batch.mask].tolist()], codes)
