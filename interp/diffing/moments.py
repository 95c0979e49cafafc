"""What latents do in two models: sums over tokens, in memory that does not grow with them, and that add up when merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from interp.core.errors import ActivationError, ArtifactError
from interp.core.files import saving
from interp.diffing.reconstruction import Reconstruction

RECONSTRUCTION = "reconstruction "
PARTS = ("prompt", "prompt_end", "answer")
"""Disjoint stretches of a chat: content before the last prompt token, that token, what follows (but the last token)."""
PHASES = {"prompt": (0,), "prompt_end": (1,), "response": (1, 2)}
"""What statistics are asked for, as parts."""
PAIRINGS = ("on_policy", "base_text", "tuned_text")
"""Which texts are compared: each model's own answers; both models reading the base's answers; both reading the tuned model's."""


@dataclass(frozen=True)
class Moments:
    """Latents of one or both models on one set of chats. Means, rates and the like are asked of one model, `of` its place."""

    sums: Float[torch.Tensor, "*models parts questions latents"]
    """Of activations, float64."""
    squares: Float[torch.Tensor, "*models parts latents"]
    """Of squared activations, float64."""
    fired: Int[torch.Tensor, "*models parts latents"]
    """Tokens at which the latent fires."""
    peaks: Float[torch.Tensor, "*models parts latents"]
    """Largest activation."""
    tokens: Int[torch.Tensor, "parts questions"]
    """Tokens that were read."""
    cross: Float[torch.Tensor, "parts latents"]
    """Σ a_base a_tuned; zero where one model alone read the text."""
    unexplained: Float[torch.Tensor, "*models latents"]
    """Σ f ⟨d, ε_m⟩ over the response: what model m's reconstruction error holds of the latent where it fires in the tuned model."""

    @classmethod
    def empty(cls, models: int, questions: int, latents: int, device: torch.device | str = "cpu") -> Moments:
        """Nothing read yet."""
        shapes = {
            "sums": (models, len(PARTS), questions, latents),
            "squares": (models, len(PARTS), latents),
            "fired": (models, len(PARTS), latents),
            "peaks": (models, len(PARTS), latents),
            "tokens": (len(PARTS), questions),
            "cross": (len(PARTS), latents),
            "unexplained": (models, latents),
        }
        types = {"fired": torch.long, "tokens": torch.long, "peaks": torch.float32}
        return cls(**{name: torch.zeros(shape, dtype=types.get(name, torch.float64), device=device) for name, shape in shapes.items()})

    def of(self, model: int) -> Moments:
        """One model's own, by its place."""
        return replace(self, **{name: getattr(self, name)[model] for name in ("sums", "squares", "fired", "peaks", "unexplained")})

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
class Diff:
    """Base and tuned model side by side, under each pairing that was read."""

    texts: Mapping[str, Moments]
    """By whose answers they are: `base`, `tuned`."""
    pairings: tuple[str, ...]
    overlap: Float[torch.Tensor, "models latents"]
    """⟨d, d_m⟩ / ‖d‖² of the tuned model's decoder row d and each model's own row d_m: 1, but for a crosscoder's base rows."""
    squared_norms: Float[torch.Tensor, " latents"]
    """‖d‖²."""
    reconstructions: Mapping[str, Reconstruction] = field(default_factory=dict)
    """By whose answers they are, where both models read them; none in what earlier versions saved."""

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

    def save(self, file: Path, **words: Any) -> None:
        """Write one safetensors file, whole or not at all, with `words` (JSON) beside; raises `ArtifactError`."""
        sums = {**self.texts, **{RECONSTRUCTION + name: own for name, own in self.reconstructions.items()}}
        tensors = {f"{name}.{field}": tensor for name, own in sums.items() for field, tensor in vars(own).items()}
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

        def sums(kind: type[Any], name: str) -> Any:
            return kind(**{f.name: tensors[f"{name}.{f.name}"] for f in fields(kind)})

        texts = {name: sums(Moments, name) for name in names if not name.startswith(RECONSTRUCTION)}
        both = {name: sums(Reconstruction, RECONSTRUCTION + name) for name in texts if RECONSTRUCTION + name in names}
        return Diff(texts, tuple(words.pop("pairings")), tensors["overlap"], tensors["squared_norms"], both), words
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} holds no diff of latents: {error}. Delete it and diff again.") from error


def add_at(target: torch.Tensor, place: Int[torch.Tensor, " entries"], values: torch.Tensor) -> None:
    """Add to a contiguous target at flat places, in a fixed order on every device."""
    flat, values = target.view(-1), values.to(target.dtype)
    if target.device.type == "cpu":
        flat.index_add_(0, place, values)
    else:
        flat.index_put_((place,), values, accumulate=True)  # sorts first; index_add_ adds in any order there


def _of(per_part: torch.Tensor, phase: str) -> torch.Tensor:
    """Sum over the parts of a phase; parts come first."""
    return per_part[list(PHASES[phase])].sum(0)
