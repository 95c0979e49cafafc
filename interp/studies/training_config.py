"""Settings of capturing residuals and of training dictionaries on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from interp.core.config import StepConfig
from sae_training.config import TrainConfig


class ReadingConfig(StepConfig):
    """What is read with which models."""

    base: str | None = None
    """Base model: hub id, folder, GGUF file, embedded:smollm2 or embedded:gemma3."""
    tuned: str | None = None
    """Fine-tuned model: hub id, folder, or LoRA adapter over the base, which then shares the base's weights."""
    text: list[str] = Field(default=["corpus"], min_length=1)
    """Files to read (.jsonl, .parquet, .txt), or `corpus`, the committed one."""
    hook_points: list[str] = Field(default=[], max_length=64)
    """Where residuals are taken; default: after the middle block."""
    tokens_of_chats: Literal["content", "response", "all"] = "content"
    """Which tokens of a chat: from the first user token on, the response phase, or all. Of plain text all."""
    context: int = Field(default=128, ge=2)
    """Tokens of a sequence. Plain texts are packed into sequences of that length; a chat's response is cut to it."""
    skip_first: int = Field(default=0, ge=0)
    """Leave out each sequence's first tokens, whose residuals are like no others."""
    block: int = Field(default=256, ge=1)
    """Documents read and mixed together."""
    store_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the residuals, in memory and on disk."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto` (bfloat16 on CUDA, float32 on the CPU), `float32`, `bfloat16`, `float16`."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along."""
    thinking: bool = False
    """Let models think before they answer, where their chat template has a switch for it; thoughts are kept apart from the answer."""


class CaptureConfig(ReadingConfig):
    """Residuals of one or two models, kept on disk."""

    base: str
    """Base model: hub id, folder, GGUF file, embedded:smollm2 or embedded:gemma3."""
    shard_rows: int = Field(default=65_536, ge=1)
    """Tokens in a file; that many are shuffled with each other."""


READ_ONLY_LIVE = ("tuned", "text", "tokens_of_chats", "context", "skip_first", "block", "store_dtype", "dtype",
                  "trust_remote_code", "thinking", "held_out")  # fmt: skip


class TrainingConfig(ReadingConfig):
    """Dictionaries on a store, or live on the models' residuals."""

    store: Path | None = None
    """Folder that `personascope capture` wrote; instead of models and text."""
    dictionary: TrainConfig = TrainConfig()
    """The dictionary and its training."""
    latents: list[int] = Field(default=[], max_length=64)
    """Latents of the dictionary, in place of `dictionary.architecture.n_latents`; several widths are trained in one pass."""
    ks: list[int] = Field(default=[], max_length=64)
    """Active latents a token, in place of `dictionary.architecture.k`; several are trained in one pass."""
    track: str | None = Field(default=None, pattern=r"^(wandb|trackio):.+$")
    """Send metrics to a tracker as well: `wandb:PROJECT` or `trackio:PROJECT`."""
    held_out: int = Field(default=32, ge=0)
    """Documents not trained on, for the loss with the reconstruction spliced in; only with models at hand, and chats."""

    @model_validator(mode="after")
    def _one_source(self) -> TrainingConfig:
        if (self.store is None) == (self.base is None):
            raise ValueError("give either store, or base (with tuned and text)")
        if self.base is not None and self.dictionary.tokens is None:
            raise ValueError("give tokens, the number of tokens to train on: what is read live has no known length")
        for name in READ_ONLY_LIVE if self.store is not None else ():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} has no effect with store, whose residuals are read already: leave it out")
        return self

    @property
    def spliced_chats(self) -> int:
        """Chats to hold out: none where no reconstruction of a model's residuals comes out."""
        return 0 if self.dictionary.reads == "difference" else self.held_out
