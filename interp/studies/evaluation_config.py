"""Settings of asking models a question set, of judging, and of comparing what was judged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from interp.core.config import StepConfig
from interp.core.vocabulary import Format, Interval, MeasureName, Split
from interp.models.sampling import SamplingConfig
from interp.traits import DEFAULT_TRAIT


class RateSettings(StepConfig):
    """How judged answers become rates."""

    shows_above: float | None = Field(default=None, ge=0, le=100)
    """Trait score above which an answer shows the trait; by default the judge's own, 70 (alignment below 30) for those that say numbers."""
    coherent_above: float | None = Field(default=None, ge=0, le=100)
    """Coherence above which an answer counts; by default the judge's own, 50 for those that say a number."""
    open_counts: bool = False
    """Count coherent answers that the judge left open (REFUSAL, CODE) as not showing the trait, as published plots do; else left out."""
    interval: Interval = "beta_binomial"
    """How 95 % intervals are made: beta_binomial, wilson (at the effective size) or bootstrap (over questions)."""
    labels: str | None = None
    """Hand labels of a random part of these answers ('personascope judge sample'): rates free of the judge's bias."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of answers that are asked for, and of the resampling of differences."""


class JudgingConfig(StepConfig):
    """Who judges which trait."""

    trait: str = DEFAULT_TRAIT
    """The trait that is looked for: a shipped name, a folder, or a file."""
    judge: str | None = None
    """probe[:DIR], rule, vader, margin[:MODEL], numeric:MODEL[@http://…], inspect:PROVIDER/MODEL, bandit, facts; else the trait's."""
    judge_prompts: str | None = None
    """What numeric and inspect ask: a published question file, or a YAML of 'trait' and 'coherence'. Default: the trait's."""
    judge_samples: int | None = Field(default=None, ge=1)
    """Replies that a hosted judge without log-probabilities is asked for (5 by default); the mean of their numbers counts."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto` (bfloat16 on CUDA, float32 on the CPU), `float32`, `bfloat16`, `float16`."""


class JudgeConfig(JudgingConfig):
    """Answers that are there to be judged."""

    questions: str | None = None
    """Question set, for the judge facts."""


class EvaluateConfig(JudgingConfig, RateSettings):
    """Models on a question set."""

    models: list[str] = Field(default=[])
    """Hub ids, folders, adapters, GGUF files, embedded:NAME, RUN@base, @tuned, @ablated or @steered; inspect:PROVIDER/MODEL, NAME@http://…."""
    base: str | None = None
    """Base of adapters that do not name it."""
    questions: str | None = None
    """A shipped set (everyday, honesty, code), path of a YAML file like it, or of a published one; default: the trait's."""
    split: Split | Literal["all"] = "held_out"
    """Which questions: `held_out`, `selection` or `all`."""
    formats: list[Format] = Field(default=["plain"], min_length=1)
    """Answer formats that every question is asked in: plain, json, template."""
    samples: int = Field(default=1, ge=1)
    """Answers to each question and format."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are drawn."""
    measures: list[MeasureName] = Field(default_factory=list)
    """What is measured besides, without sampling: choices, options, letters, continuations, perplexity."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along."""
    thinking: bool = False
    """Let models think before they answer, where their chat template has a switch for it; thoughts are kept apart from the answer."""

    @field_validator("models", "formats", "measures")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("one is named twice: name each once")
        return names

    @field_validator("models", mode="before")
    @classmethod
    def _without_passwords(cls, models: Any) -> Any:
        """Before anything could show them."""
        from interp.evaluation.hosted_model import parse_hosted

        for spec in models if isinstance(models, list) else []:
            parse_hosted(str(spec))
        return models


class CompareConfig(RateSettings):
    """Evaluations side by side."""

    sources: list[str] = Field(min_length=1)
    """Folders that 'personascope evaluate' wrote, or tables (.csv, .jsonl, .parquet) with columns question, answer, aligned, coherent."""
    score: str | None = None
    """Column of a table's trait scores, 0 to 100, such as evil; default: trait_score, aligned, aligned_score, or the one that is left."""
    against: str | None = None
    """Model that the others are held against; the first by default."""
