"""Settings of the measurement on held-out questions."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig


class EvidenceConfig(StepConfig):
    """The measurement, on held-out questions only."""

    questions: int = Field(default=24, ge=4)
    """Held-out questions."""
    samples: int = Field(default=2, ge=1)
    """Answers a question for each main condition; the others get one."""
    random_draws: int = Field(default=32, ge=19)
    """Independent draws of random directions, removed and added; with fewer than 19 no p can be 0.05."""
    active_draws: int = Field(default=16, ge=1)
    """Independent draws of equally active latents, removed and added."""
    full_draws: int = Field(default=4, ge=1)
    """Random draws that are asked every question."""
    parts: int = Field(default=4, ge=1)
    """The other draws are each asked one of so many parts of the questions, in turn."""
