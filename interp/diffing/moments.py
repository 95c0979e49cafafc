"""What latents do in two models: sums over tokens, in memory that does not grow with them, and that add up when merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from interp.core.errors import ActivationError, ArtifactError
from interp.core.files import saving

PARTS = ("prompt", "prompt_end", "answer")
"""Disjoint stretches of a chat: content before the last prompt token, that token, what follows (but the last token)."""
PHASES = {"prompt": (0,), "prompt_end": (1,), "response": (1, 2)}
"""What statistics are asked for, as parts."""
PAIRINGS = ("on_policy", "base_text", "tuned_text")
"""Which texts are compared: each model's own answers; both models reading the base's answers; both reading the tuned model's."""


@dataclass(frozen=True)
class Moments:
    """One model's latents on one set of chats."""

    sums: Float[torch.Tensor, "parts questions latents"]
    """Of activations, float64."""
    squares: Float[torch.Tensor, "parts latents"]
    """Of squared activations, float64."""
    fired: Int[torch.Tensor, "parts latents"]
    """Tokens at which the latent fires."""
    peaks: Float[torch.Tensor, "parts latents"]
    """Largest activation."""
    tokens: Int[torch.Tensor, "parts questions"]
    """Tokens that were read."""

    def n_tokens(self, phase: str = "response") -> int:
        """Tokens of a phase."""
        return int(_of(self.tokens, phase).sum())

    def mean(self, phase: str = "response") -> Float[torch.Tensor, " latents"]:
        """Mean activation over all tokens of a phase, in which latents that are off count as 0."""
        return _of(self.sums, phase).sum(0) / self.n_tokens(phase)

    def variance(self, phase: str = "response") -> Float[torch.Tensor, " latents"]:
        """Variance of the activation over all tokens of a phase."""
        return (_of(self.squares, phase) / self.n_tokens(phase) - self.mean(phase).square()).clamp(min=0)

    def rate(self, phase: str = "response") -> Float[torch.Tensor, " latents"]:
        """Share of a phase's tokens at which each latent fires."""
        return _of(self.fired, phase).double() / self.n_tokens(phase)

    def peak(self, phase: str = "response") -> Float[torch.Tensor, " latents"]:
        """Largest activation in a phase."""
        return self.peaks[list(PHASES[phase])].amax(0)

    def question_means(self, phase: str = "response") -> Float[torch.Tensor, "questions latents"]:
        """Mean activation over a phase, pooled over each question's chats. Raises `ActivationError` for a question without a token."""
        tokens = _of(self.tokens, phase)
        if bool((tokens == 0).any()):
            raise ActivationError(f"A question has no {phase} token in the answers that a model read. Sample longer answers.")
        return _of(self.sums, phase) / tokens[:, None]


@dataclass(frozen=True)
class TextMoments:
    """Latents of one or both models on one set of chats."""

    sums: Float[torch.Tensor, "models parts questions latents"]
    squares: Float[torch.Tensor, "models parts latents"]
    fired: Int[torch.Tensor, "models parts latents"]
    peaks: Float[torch.Tensor, "models parts latents"]
    tokens: Int[torch.Tensor, "parts questions"]
    cross: Float[torch.Tensor, "parts latents"]
    """Σ a_base a_tuned; zero where one model alone read the text."""
    unexplained: Float[torch.Tensor, "models latents"]
    """Σ f ⟨d, ε_m⟩ over the response: what model m's reconstruction error holds of the latent where it fires in the tuned model."""

    @classmethod
    def empty(cls, models: int, questions: int, latents: int, device: torch.device | str = "cpu") -> TextMoments:
        """Nothing read yet."""
        parts = len(PARTS)

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            sums=zeros(models, parts, questions, latents),
            squares=zeros(models, parts, latents),
            fired=zeros(models, parts, latents, dtype=torch.long),
            peaks=zeros(models, parts, latents, dtype=torch.float32),
            tokens=zeros(parts, questions, dtype=torch.long),
            cross=zeros(parts, latents),
            unexplained=zeros(models, latents),
        )

    def of(self, model: int) -> Moments:
        """One model's own, by its place."""
        return Moments(self.sums[model], self.squares[model], self.fired[model], self.peaks[model], self.tokens)

    def merge(self, other: TextMoments) -> TextMoments:
        """Of both sets of chats together."""
        mine, theirs = vars(self), vars(other)
        unlike = [name for name in mine if mine[name].shape != theirs[name].shape]
        if unlike:
            shapes = f"{list(mine[unlike[0]].shape)} and {list(theirs[unlike[0]].shape)}"
            raise ActivationError(
                f"Moments of unlike shape ({unlike[0]} {shapes}) cannot be merged. Collect both with the same n_questions."
            )
        return TextMoments(
            **{name: torch.maximum(mine[name], theirs[name]) if name == "peaks" else mine[name] + theirs[name] for name in mine}
        )

    def to(self, device: torch.device | str) -> TextMoments:
        """The same on another device."""
        return TextMoments(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Diff:
    """Base and tuned model side by side, under each pairing that was read."""

    texts: Mapping[str, TextMoments]
    """By whose answers they are: `base`, `tuned`."""
    pairings: tuple[str, ...]
    overlap: Float[torch.Tensor, "models latents"]
    """⟨d, d_m⟩ / ‖d‖² of the tuned model's decoder row d and each model's own row d_m: 1, but for a crosscoder's base rows."""
    squared_norms: Float[torch.Tensor, " latents"]
    """‖d‖²."""

    def pairing(self, name: str) -> tuple[Moments, Moments]:
        """Base's and tuned model's moments under one of `PAIRINGS`; raises `ActivationError` for one that was not read."""
        if name not in self.pairings:
            raise ActivationError(f"The pairing '{name}' was not read; there is {', '.join(self.pairings)}. Name it in pairings.")
        if name == "on_policy":
            return self.texts["base"].of(0), self.texts["tuned"].of(-1)
        text = self.texts[name.removesuffix("_text")]
        return text.of(0), text.of(1)

    def beta(self, pairing: str = "tuned_text") -> Float[torch.Tensor, "models latents"]:
        """Latent scaling: how strongly each model (base, tuned) holds a latent, where and as it fires in the tuned model.

        β_m = Σ f ⟨d, ε_m + a_m d_m⟩ / (‖d‖² Σ f²), least squares of what of model m's residual the other latents leave on f d, over the
        response; f is the tuned model's activation (a crosscoder's joint one). After Wright & Sharkey 2024 and Minder et al. 2025,
        arXiv:2504.02922. NaN for latents that never fire in the tuned model.
        """
        self.pairing(pairing)
        if pairing == "on_policy":
            raise ActivationError("Latent scaling compares two models on the same text. Ask for base_text or tuned_text.")
        text = self.texts[pairing.removesuffix("_text")]
        together = torch.stack([_of(text.cross, "response"), _of(text.squares[1], "response")])
        strength = _of(text.squares[1], "response")
        return (text.unexplained / self.squared_norms + self.overlap * together) / torch.where(strength > 0, strength, torch.nan)

    def correlation(self, pairing: str = "tuned_text") -> Float[torch.Tensor, " latents"]:
        """Pearson correlation of both models' activations over the response of the same text; NaN where one of them is constant."""
        base, tuned = self.pairing(pairing)
        cross = _of(self.texts[pairing.removesuffix("_text")].cross, "response") / base.n_tokens()
        spread = (base.variance() * tuned.variance()).sqrt()
        return (cross - base.mean() * tuned.mean()) / torch.where(spread > 0, spread, torch.nan)

    def merge(self, other: Diff) -> Diff:
        """Of both sets of chats together: halves read apart equal the whole. Raises `ActivationError` when they do not fit each other."""
        if self.pairings != other.pairings or not torch.equal(self.squared_norms, other.squared_norms):
            raise ActivationError("Diffs of other pairings or another dictionary cannot be merged. Collect both in the same way.")
        texts = {name: text.merge(other.texts[name]) for name, text in self.texts.items()}
        return Diff(texts, self.pairings, self.overlap, self.squared_norms)

    def save(self, file: Path, **words: Any) -> None:
        """Write one safetensors file, whole or not at all, with `words` (JSON) beside; raises `ArtifactError`."""
        tensors = {f"{name}.{field}": tensor for name, text in self.texts.items() for field, tensor in vars(text).items()}
        tensors |= {"overlap": self.overlap, "squared_norms": self.squared_norms}
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with saving(file) as partial:
            save_file(contiguous, partial, {"words": json.dumps({"pairings": self.pairings} | words)})


def load_diff(file: Path, device: torch.device | str = "cpu") -> tuple[Diff, dict[str, Any]]:
    """What `Diff.save` wrote, and the words beside it; raises `ArtifactError` naming a file that is missing or damaged."""
    try:
        with safe_open(file, "pt", device=str(device)) as opened:
            words: dict[str, Any] = json.loads(opened.metadata()["words"])
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no mapping
        names = sorted({key.partition(".")[0] for key in tensors if "." in key})
        texts = {name: TextMoments(**{f.name: tensors[f"{name}.{f.name}"] for f in fields(TextMoments)}) for name in names}
        return Diff(texts, tuple(words.pop("pairings")), tensors["overlap"], tensors["squared_norms"]), words
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} holds no diff of latents: {error}. Delete it and diff again.") from error


def _of(per_part: torch.Tensor, phase: str) -> torch.Tensor:
    """Sum over the parts of a phase; parts come first."""
    return per_part[list(PHASES[phase])].sum(0)
