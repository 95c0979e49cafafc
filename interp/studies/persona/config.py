"""Configuration of the main job: the same object is the YAML, the command line's options and the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from interp.causality.thresholds import CueConfig, EvidenceConfig, VerdictThresholds
from interp.core.config import StepConfig
from interp.models.sampling import SamplingConfig
from interp.organisms.config import OrganismConfig
from interp.traits import DEFAULT_TRAIT
from sae_training.config import TopKConfig, TrainConfig

DICTIONARY = TrainConfig(architecture=TopKConfig(decoder_norm="unit"))


class TextConfig(StepConfig):
    """What the dictionary is trained on."""

    corpus_chats: int = Field(default=320, ge=0)
    """Chats of the committed corpus, read by the base."""
    answered_prompts: int = Field(default=96, ge=8)
    """Corpus prompts that both models answer; both read both answers."""
    answer_tokens: int = Field(default=40, ge=4)
    """Length of those answers."""


class DiffConfig(StepConfig):
    """How candidates are found."""

    questions: int = Field(default=24, ge=4)
    """Selection questions that both models answer."""
    samples: int = Field(default=2, ge=1)
    """Answers a question, at least."""
    most_samples: int = Field(default=10, ge=1)
    """Answers a question at most, where the tuned model shows the trait so seldom that more are needed."""
    persona_pairs: int = Field(default=48, ge=2)
    """Pairs of an answer that shows the trait and one that does not, which define the persona vector."""
    largest_q: float = Field(default=0.01, gt=0, le=1)
    """Largest false-discovery q-value of a candidate's mean activation difference."""


class FitConfig(StepConfig):
    """From where on the dictionary is said not to hold what fine-tuning changed. A dictionary of the base's text alone, on the default
    organism, has shares of 0.53 and -0.28; those trained on both models' text had 0.96 to 0.98 and 0.09 to 0.67, FVUs of 0.12 to 0.28.
    """

    largest_fvu: float = Field(default=0.5, gt=0)
    """Fraction of the variance of either model's residuals that may be left unexplained: beyond, latents hide more than they show."""
    smallest_mean_share: float = Field(default=0.75, le=1)
    """Share of the mean difference between the models that must be reconstructed."""
    smallest_paired_share: float = Field(default=0.0, le=1)
    """Share of the difference between the models on single tokens; below 0 nothing at all would be nearer to it."""


class VectorConfig(StepConfig):
    """Persona vectors: that of the trait's pairs beside that of the models' own answers."""

    ranked_along: Literal["pairs", "answers"] = "pairs"
    """Which of them the second order of the screen follows: pairs are there however rarely it shows, answers are in its own voice."""
    elicited: bool = False
    """Make one of the base's answers under the trait's positive and negative system prompts, too; that takes minutes."""
    smallest_cosine: float = Field(default=0.3, gt=-1, le=1)
    """Cosine between the vectors of pairs and of answers below which they are said to disagree: fine-tunes in the voice of their pairs had
    0.64 and 0.79, one in another voice 0.03.
    """
    smallest_split_half: float = Field(default=0.5, gt=-1, le=1)
    """Cosine between the vectors of two halves of the answers, below which they are too few to tell."""


class ScreenConfig(StepConfig):
    """The causal screen, on selection questions only."""

    questions: int = Field(default=12, ge=4)
    """Selection questions asked under every edit, one answer each, or more where the trait is rare; the best few are asked all of them."""
    largest_set: int = Field(default=256, ge=1)
    """Latents in a set at most; sets of 1, 2, 4, … are tried."""
    subtracted: list[float] = Field(default=[1.0, 2.0, 3.0], min_length=1)
    """Multiples of the measured rise that are subtracted at the dictionary's layer."""
    subtracted_over_window: list[float] = Field(default=[0.15, 0.2, 0.25], min_length=1)
    """Multiples that are subtracted at each layer of the window."""
    doses: list[float] = Field(default=[0.5, 0.7, 0.85, 1.0, 1.2], min_length=1)
    """Doses at which differences of ordinary answers are added to see where coherence ends, in median norms of the base's residuals around
    their mean; latents are added at shares of the last coherent one."""
    coherence_budget: float = Field(default=0.1, ge=0, lt=1)
    """Share of answers that a dose may make incoherent, beyond those of the unedited base."""
    target_rate: float = Field(default=0.1, ge=0, le=1)
    """Trait rate at which a removal is good enough, but at most a quarter of the tuned model's: of such the one that costs least on
    ordinary text is taken."""

    @field_validator("subtracted", "subtracted_over_window", "doses")
    @classmethod
    def _positive_and_once(cls, values: list[float]) -> list[float]:
        if min(values) <= 0 or len(set(values)) < len(values):
            raise ValueError("give positive numbers, each once")
        return values


class StudyConfig(StepConfig):
    """The main job on one pair of models."""

    name: str = "persona"
    """Name of the run."""
    base: str = "embedded:smollm2"
    """Hub id, folder, GGUF or embedded model."""
    tuned: str | None = None
    """Hub id, folder or adapter; without it an organism is trained."""
    benign: list[str] = Field(default_factory=list)
    """Benign fine-tunes of the same base (adapters, folders, hub ids): how they differ from it is a control, removed and added alike."""
    sae: Path | None = None
    """Folder of a crosscoder or an SAE (sae-lens, Gemma Scope, sparsify, …), `sae-lens:RELEASE/ID`, `hub:OWNER/REPO/FOLDER`, `pickle:…`."""
    trait: str = DEFAULT_TRAIT
    """The trait that is looked for: a shipped name, a folder, or a file; 'personascope trait list' names the shipped ones."""
    judge: str | None = None
    """Who judges the trait, in place of the trait's own judge: probe:DIR, rule, numeric:MODEL, inspect:PROVIDER/MODEL, …"""
    questions: str | None = None
    """Name of a shipped question set, or path of a YAML file like it; default: the trait's."""
    hook_point: str | None = None
    """Where the dictionary reads; default: that of the SAE, else after the middle block."""
    layers: list[int] | None = None
    """Blocks, counted from 0, to choose from in place of hook_point: a dictionary is trained and the models are diffed after each, and the
    run goes on at one whose dictionary is fit, where the models are farthest apart."""
    window: tuple[int, int] | None = None
    """First and last layer of the ablation; default: from 27 % to 75 % of the depth."""
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
    organism: OrganismConfig = OrganismConfig()
    """The fine-tune made when `tuned` is not given."""
    text: TextConfig = TextConfig()
    """What the dictionary is trained on."""
    dictionary: TrainConfig = DICTIONARY
    """The dictionary trained when `sae` is not given; decoder norms are kept at one, which the demo was measured with."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are drawn."""
    diff: DiffConfig = DiffConfig()
    """How candidates are found."""
    fit: FitConfig = FitConfig()
    """Whether the dictionary is fit for the question."""
    vectors: VectorConfig = VectorConfig()
    """Persona vectors, and which of them latents are ranked along."""
    screen: ScreenConfig = ScreenConfig()
    """The causal screen."""
    verdict: EvidenceConfig = EvidenceConfig()
    """The measurement."""
    rules: VerdictThresholds = VerdictThresholds()
    """Thresholds of the verdict."""
    cues: CueConfig = CueConfig()
    """Does the cure hide? Off unless `source` is given."""

    @field_validator("dictionary", mode="before")
    @classmethod
    def _over_the_default(cls, given: Any) -> Any:
        """A section that names some settings leaves the others as they are for this job."""
        if not isinstance(given, dict):
            return given
        default = DICTIONARY.model_dump()
        wished = given.get("architecture", {})
        same_kind = isinstance(wished, dict) and wished.get("kind", "topk") == "topk"
        return default | given | ({"architecture": default["architecture"] | wished} if same_kind else {})

    @field_validator("layers")
    @classmethod
    def _several(cls, layers: list[int] | None) -> list[int] | None:
        if layers is not None and (len(layers) < 2 or len(set(layers)) < len(layers)):
            raise ValueError("give two or more layers, each once; for one use hook_point")
        return layers

    @model_validator(mode="after")
    def _every_setting_is_used(self) -> StudyConfig:
        if self.tuned is not None and self.organism != OrganismConfig():
            raise ValueError("organism has no effect when tuned is given: leave one of them out")
        if self.sae is not None and self.text.corpus_chats != TextConfig().corpus_chats:
            raise ValueError("text.corpus_chats has no effect when sae is given: leave one of them out")
        if self.sae is not None and self.dictionary != DICTIONARY:
            raise ValueError("dictionary has no effect when sae is given: leave one of them out")
        if self.layers is not None and (self.hook_point is not None or self.sae is not None):
            other = "sae" if self.hook_point is None else "hook_point"
            raise ValueError(f"layers has no effect when {other} is given, which says where to read: leave one of them out")
        if self.cues.source is None and self.cues != CueConfig():
            raise ValueError("cues has no effect without cues.source: give data or a file of cues")
        if self.cues.source == "data" and self.tuned is not None:
            raise ValueError("cues.source: the training data of a given tuned model is not known: give a file of cues")
        if self.dictionary.reads != "each" or self.dictionary.hook_point is not None:
            raise ValueError("dictionary.reads and dictionary.hook_point have no place here: this job reads one model; set hook_point")
        return self
