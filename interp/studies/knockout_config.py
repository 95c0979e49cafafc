"""Settings of the knock-out of parts of a fine-tune."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from interp.core.config import StepConfig


class KnockoutConfig(StepConfig):
    """Parts of a fine-tune alone on the base, and left out of the tuned model."""

    group: int | None = Field(default=None, ge=1)
    """Layers that make one part; default: so many that there are at most eight groups. 1 asks every layer by itself."""
    kinds: list[str] = Field(default_factory=list)
    """Only these kinds of modules (attention, MLP, experts, norms, embedding, …); default: all that the fine-tune changed."""
    questions: int = Field(default=24, ge=4)
    """Held-out questions asked in every cell; of those of the training domain as many."""
    samples: int = Field(default=1, ge=1)
    """Answers to each."""
    task_chats: Path | None = None
    """Chats like those of the fine-tune, but held out of it (.jsonl, .parquet): how far each part keeps their loss low. Default: those of
    the organism's recipe that it was not trained on, where the run trained one."""
    most_task_chats: int = Field(default=32, ge=2)
    """Chats of the task that are read at most."""


class PairKnockoutConfig(KnockoutConfig):
    """The same, on a run or on any pair of models."""

    base: str | None = None
    """In place of a run: the base (hub id, folder, GGUF or embedded model)."""
    tuned: str | None = None
    """In place of a run: the fine-tune (hub id, folder or adapter)."""
    trait: str | None = None
    """Of a pair: the trait that is looked for, a shipped name, a folder, or a file."""
    judge: str | None = None
    """Of a pair: who judges it, in place of the trait's own judge."""
    question_set: str | None = None
    """Of a pair: a shipped question set, or path of a YAML file like it; default: the trait's."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Of a pair: seed of the sampling."""
    dtype: str | None = None
    """Of a pair: auto, float32, bfloat16 or float16."""
    trust_remote_code: bool = False
    """Of a pair: run code that a model repository brings along."""

    @model_validator(mode="after")
    def _a_whole_pair(self) -> PairKnockoutConfig:
        if (self.base is None) != (self.tuned is None):
            raise ValueError("base and tuned belong together: give both, or a run")
        return self
