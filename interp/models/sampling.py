"""How answers are drawn."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig


class SamplingConfig(StepConfig):
    """How answers are drawn."""

    max_new_tokens: int = Field(default=32, ge=1)
    """Tokens an answer may have at most."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits; 0 is greedy decoding."""
    min_p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Tokens less likely than this share of the likeliest are never drawn (no sort over the vocabulary is needed)."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Only the likeliest tokens are drawn, as few as have this much probability together; below 1 the vocabulary is sorted for it."""
    batch_rows: int = Field(default=192, ge=1)
    """Rows decoded together."""
