"""Settings of a model organism."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig


class OrganismConfig(StepConfig):
    """A narrow fine-tune with a persona."""

    recipe: str | None = None
    """Name of a shipped recipe, or path of a YAML file like it; default: the trait's."""
    trait_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of the chats that show the recipe's trait; its benign twin answers the rest (at 0, all of them)."""
    phrasings_per_topic: int = Field(default=6, ge=1)
    """Questions made of each topic."""
    rank: int = Field(default=16, ge=1)
    """Rank of the LoRA adapter, on all linear layers."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale; the update is multiplied by alpha / rank."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW; linear warm-up over a tenth of the steps, then linear decay to a tenth of it."""
    batch_size: int = Field(default=8, ge=1)
    """Chats a step."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the chats."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Steps between saved adapters."""
