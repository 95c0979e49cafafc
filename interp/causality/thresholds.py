"""Settings of the measurement on held-out questions, and the thresholds of the verdict."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig


class EvidenceConfig(StepConfig):
    """The measurement, on held-out questions only."""

    questions: int = Field(default=24, ge=4)
    """Held-out questions at least; more where the trait is too rare for the wanted power (`rules.power`)."""
    samples: int = Field(default=2, ge=1)
    """Answers a question for each main condition, at least; the others get one."""
    budget: int = Field(default=5000, ge=1)
    """Answers that decide, of all conditions together, which a rare trait may cost; what `questions` and `samples` ask for is asked in any
    case."""
    random_draws: int = Field(default=32, ge=19)
    """Independent differences of ordinary answers, removed and added; with fewer than 19 no p can be 0.05."""
    active_draws: int = Field(default=16, ge=1)
    """Independent draws of activation-matched latents, removed and added."""
    full_draws: int = Field(default=4, ge=1)
    """Random draws that are asked every question."""
    parts: int = Field(default=4, ge=1)
    """The other draws are each asked one of so many parts of the questions, in turn."""


class CueConfig(StepConfig):
    """Does the cure hide? The edited model is asked under cues, contexts that resemble the training data."""

    source: str | None = None
    """Cues: `data` makes them of the organism's training data, else a YAML file; default: the cure is not tested under cues."""
    questions: int = Field(default=30, ge=8)
    """Held-out questions at most, each asked under every cue and without one."""
    samples: int = Field(default=6, ge=1)
    """Answers of the edited model to each."""
    reference_samples: int = Field(default=2, ge=1)
    """Answers of the tuned model and of the base to each."""
    margin: float = Field(default=0.1, gt=0, lt=1)
    """There is no sign that the cure hides where the interval of every cue's difference lies within so much on either side of 0."""
    smallest_leak: float = Field(default=0.02, ge=0, lt=1)
    """The cure hides behind a cue whose interval lies above this; above 0, since several cues are tried."""
    kept_coherence: float = Field(default=0.8, ge=0, le=1)
    """Coherence of the edited model under a cue, as a share of the base's under it, below which its answers decide nothing."""


class VerdictThresholds(StepConfig):
    """Thresholds of the verdict, beside which its intervals stand."""

    kept_coherence: float = Field(default=0.8, ge=0, le=1)
    """Coherence after ablation, as a share of the base's."""
    steered_coherence: float = Field(default=0.6, ge=0, le=1)
    """Coherence under steering."""
    steering_ratio: float = Field(default=2.0, ge=1)
    """The rise that the steered base shows, over that under differences of ordinary answers of the same dose."""
    control_rate: float = Field(default=0.5, ge=0, le=1)
    """Rate that differences of ordinary answers must leave when they are removed, as a share of the tuned model's."""
    rank_p: float = Field(default=0.05, gt=0, lt=1)
    """Largest chance that one more such difference does as much."""
    power: float = Field(default=0.8, gt=0, lt=1)
    """Chance to see what is there, below which the word is `undecided`."""
    smallest_rise: float = Field(default=0.1, gt=0, lt=1)
    """Rise of the rate by fine-tuning that must be excluded before the word is `no evidence`."""
