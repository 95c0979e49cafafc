"""How well a trait's pairs separate in the residuals of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.core.errors import ActivationError, ConfigError
from interp.core.streams import stream_seed
from interp.models.activations import capture, response_phase
from interp.models.chats import Chat
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from interp.traits import Pair

SPLITS = 50


@dataclass(frozen=True)
class Separation:
    """What the mean difference of some pairs says of pairs that it was not made of."""

    model: str
    hook_point: str
    pairs: int
    auroc: float
    """Of answers that show the trait over those that do not, by projection on the mean difference of the pairs of other questions."""
    paired: float
    """Share of pairs whose answer that shows the trait has the larger projection."""
    cosine_of_halves: float
    """Cosine of the mean differences of two halves of the questions, mean of random splits: near 1, more pairs would change little."""


def separation(
    model: LanguageModel,
    pairs: Sequence[Pair],
    hook_point: str | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Separation:
    """At `hook_point` (default: after the middle block), on mean residuals over each answer's tokens.

    Raises `ConfigError` for pairs of fewer than four questions.
    """
    from sklearn.metrics import roc_auc_score

    questions = np.unique([pair.question for pair in pairs], return_inverse=True)[1]
    n_questions = len(set(questions.tolist()))
    if n_questions < 4:
        raise ConfigError(f"The pairs ask {n_questions} questions; to hold some out and compare halves it takes 4. Write more pairs.")
    name = str(model.hook_point(hook_point or resid_post(model.n_layers // 2)))
    chats = [Chat.ask(pair.question, pair.shows) for pair in pairs] + [Chat.ask(pair.question, pair.not_shown) for pair in pairs]
    means = _mean_residuals(model, chats, name, progress)
    shows, not_shown = means[: len(pairs)], means[len(pairs) :]
    difference = shows - not_shown
    projections = np.zeros((2, len(pairs)))
    for question in range(n_questions):
        own = questions == question
        direction = _unit(difference[~own].mean(0))
        projections[:, own] = shows[own] @ direction, not_shown[own] @ direction
    generator = np.random.default_rng(stream_seed(seed, "separation"))
    cosines = []
    for _ in range(SPLITS):
        half = np.isin(questions, generator.permutation(n_questions)[: n_questions // 2])
        cosines.append(_unit(difference[half].mean(0)) @ _unit(difference[~half].mean(0)))
    return Separation(
        model.source,
        name,
        len(pairs),
        float(roc_auc_score(np.repeat([1, 0], len(pairs)), projections.ravel())),
        float((projections[0] > projections[1]).mean()),
        float(np.mean(cosines)),
    )


def _mean_residuals(
    model: LanguageModel, chats: Sequence[Chat], hook_point: str, progress: Callable[[int], None] | None
) -> Float[np.ndarray, "chats d_model"]:
    """Mean residual of each chat over its response phase."""
    result = torch.zeros(len(chats), model.d_model, dtype=torch.float64)
    for captured in capture(model, chats, [hook_point], progress=progress):
        selected = response_phase(captured.batch)
        if not bool(selected.any(1).all()):
            raise ActivationError("A pair has an answer without a token. Write both answers of every pair.")
        residual = captured.residuals[hook_point].double().masked_fill(~selected[..., None], 0.0)
        result[captured.rows] = (residual.sum(1) / selected.sum(1, keepdim=True)).cpu()
    return result.numpy()


def _unit(vector: Float[np.ndarray, " d_model"]) -> Float[np.ndarray, " d_model"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
