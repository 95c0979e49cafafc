"""What a dictionary reconstructs of two models that read the same text, and of what one has beyond the other: sums over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

BASE, TUNED, SHIFT = 0, 1, 2
"""Places in the squared sums: of the base, of the tuned model, and of the tuned model's residuals less the base's, token by token."""


@dataclass(frozen=True)
class Reconstruction:
    """Both models on one set of chats, over the response; sums are float64."""

    residuals: Float[torch.Tensor, "2 questions d_model"]
    """Σ x, base first."""
    errors: Float[torch.Tensor, "2 questions d_model"]
    """Σ (x - x̂), where x̂ is the reconstruction."""
    squared_residuals: Float[torch.Tensor, 3]
    """Σ ‖x‖²; the third is Σ ‖x_tuned - x_base‖²."""
    squared_errors: Float[torch.Tensor, 3]
    """Σ ‖x - x̂‖²; the third is that of the difference."""
    tokens: Int[torch.Tensor, " questions"]

    @classmethod
    def empty(cls, questions: int, d_model: int, device: torch.device | str = "cpu") -> Reconstruction:
        """Nothing read yet."""
        shapes = ((2, questions, d_model), (2, questions, d_model), (3,), (3,))
        residuals, errors, squared, missed = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(residuals, errors, squared, missed, torch.zeros(questions, dtype=torch.long, device=device))

    def add(
        self,
        x: Float[torch.Tensor, "2 tokens d_model"],
        errors: Float[torch.Tensor, "2 tokens d_model"],
        owners: Int[torch.Tensor, " tokens"],
    ) -> None:
        """Add tokens in place; `owners` says to which question each belongs."""
        of_question = torch.nn.functional.one_hot(owners, len(self.tokens)).T
        self.tokens.add_(of_question.sum(1))
        for sums, squares, values in (
            (self.residuals, self.squared_residuals, x.double()),
            (self.errors, self.squared_errors, errors.double()),
        ):
            sums.add_(of_question.double() @ values)
            squares.add_(torch.stack([one.square().sum() for one in (*values, values[TUNED] - values[BASE])]))

    def fvu(self, model: int) -> float:
        """Fraction of the variance of a model's residuals that its reconstruction leaves unexplained; NaN where nothing varies."""
        total = self.residuals[model].sum(0)
        return _ratio(self.squared_errors[model], self.squared_residuals[model] - total.square().sum() / self.tokens.sum())

    def question_means(self, model: int) -> Float[torch.Tensor, "questions d_model"]:
        """A model's mean residual over each question's answers; NaN for a question without a token."""
        return self.residuals[model] / self.tokens[:, None]


def dictionary_fit(base_text: Reconstruction, tuned_text: Reconstruction) -> dict[str, float]:
    """How much of both models, and of the difference between them, a dictionary holds; NaN where there is nothing to hold.

    `fvu_base`, `fvu_tuned`: fraction of variance unexplained of each model, on its own answers. `share_of_mean_difference`:
    1 - ‖μ - μ̂‖² / ‖μ‖², where μ is the mean residual of the tuned model over its own answers less that of the base over its own, and μ̂ the
    same of the reconstructions: Σ_j rise_j d_j. `share_of_paired_difference`: the same of single tokens that both models read, over the
    answers of both. A share is 1 where all is reconstructed, and below 0 where the reconstruction is farther off than nothing would be.
    """
    texts = (base_text, tuned_text)

    def mean_difference(field: str) -> Float[torch.Tensor, " d_model"]:
        base, tuned = (getattr(text, field)[model].sum(0) / text.tokens.sum() for model, text in zip((BASE, TUNED), texts, strict=True))
        return tuned - base

    error, difference = mean_difference("errors"), mean_difference("residuals")
    paired_error, paired = (sum(getattr(text, field)[SHIFT] for text in texts) for field in ("squared_errors", "squared_residuals"))
    return {
        "fvu_base": base_text.fvu(BASE),
        "fvu_tuned": tuned_text.fvu(TUNED),
        "share_of_mean_difference": 1 - _ratio(error.square().sum(), difference.square().sum()),
        "share_of_paired_difference": 1 - _ratio(paired_error, paired),
    }


def principal_directions(base_text: Reconstruction, tuned_text: Reconstruction, n: int) -> Float[torch.Tensor, "n d_model"]:
    """The first principal directions of the differences between the models, by question: orthonormal, largest first, at most as many as
    there are questions.

    A difference is the tuned model's mean residual over its answers less the base's over its own. Their second moment is taken around zero,
    so that what all questions share counts most (as in Zou et al. 2023, arXiv:2310.01405, where the sign of a difference is random).
    Each points the way that the models differ on average.
    """
    differences = tuned_text.question_means(TUNED) - base_text.question_means(BASE)
    differences = differences[differences.isfinite().all(1)]
    directions = torch.linalg.svd(differences, full_matrices=False).Vh[:n]
    signs = torch.where(directions @ differences.mean(0) < 0, -1.0, 1.0)
    return (signs[:, None] * directions).float()


def _ratio(part: torch.Tensor | float, whole: torch.Tensor | float) -> float:
    return float(part) / float(whole) if float(whole) > 0 else float("nan")
