"""Settings of experiments on a run: steer, ablate, chat, sweep, verdict and export, on the command line and in Python alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from interp.core.config import StepConfig
from interp.core.errors import ConfigError
from interp.core.vocabulary import Phase, SinkTokens

_WHERE = re.compile(r"\s*(\d+)\s*(?:>\s*(\d+\.?\d*|\.\d+)\s*)?")


def checked_direction(name: str) -> str:
    """The name of a direction that is no latent; raises `ConfigError` where there is none of that name."""
    if name not in ("persona_vector", "mean_difference") and not re.fullmatch(r"random:\d{1,9}", name):
        raise ConfigError(f"There is no direction '{name}': use persona_vector, mean_difference or random:SEED.")
    return name


def parsed_condition(condition: str) -> tuple[int, float]:
    """`LATENT>ABOVE` as both numbers; raises `ConfigError`."""
    match = _WHERE.fullmatch(condition)
    if not match:
        raise ConfigError(f"'{condition}' is no condition. Write LATENT or LATENT>NUMBER, for example 2076>0.5.")
    return int(match[1]), float(match[2] or 0.0)


def _each_once(latents: list[int]) -> list[int]:
    if len(set(latents)) < len(latents):
        raise ValueError("a latent is named twice: name each once")
    return latents


def _readable(condition: str) -> str:
    parsed_condition(condition)
    return condition


Latents = Annotated[list[int], AfterValidator(_each_once)]
DirectionName = Annotated[str, AfterValidator(checked_direction)]
AblationKind = Literal["project-out", "subtract", "mean"]


class Asking(StepConfig):
    """What is asked, and how answers are drawn."""

    prompts: list[str] = Field(default_factory=list)
    """Prompts of your own."""
    questions: int = Field(default=4, ge=1)
    """Selection questions of the run's set, where no prompt is given."""
    samples: int = Field(default=1, ge=1)
    """Answers to each."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens an answer may have at most; default: as in the run."""

    @field_validator("prompts")
    @classmethod
    def _something_is_asked(cls, prompts: list[str]) -> list[str]:
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError("a prompt is empty: write a question")
        return prompts

    @model_validator(mode="after")
    def _one_of_both(self) -> Asking:
        if self.prompts and "questions" in self.model_fields_set:
            raise ValueError("questions has no effect beside prompts: leave one of them out")
        return self


class SteerConfig(Asking):
    """A direction added to the base."""

    latent: int | None = Field(default=None, ge=0)
    """Latent whose decoder row is added."""
    direction: DirectionName | None = None
    """Instead of a latent: persona_vector, mean_difference or random:SEED."""
    dose: float = Field(gt=0, allow_inf_nan=False)
    """Norm of what is added, over the median norm of the base's residuals around their mean."""
    phase: Phase = "response"
    """Where it is added: response, prompt or all."""
    where: Annotated[str, AfterValidator(_readable)] | None = None
    """Only at tokens where a latent is active: LATENT, or LATENT>0.5."""

    @model_validator(mode="after")
    def _one_direction(self) -> SteerConfig:
        if (self.latent is None) == (self.direction is None):
            raise ValueError("give either latent or direction: one thing is added")
        return self


class Everywhere(StepConfig):
    """A projection that weights can carry."""

    everywhere: bool = False
    """Project out after everything that writes to the residual stream, which is exact in weights."""
    last_layer: int | None = Field(default=None, ge=0)
    """With everywhere: the last layer; default: that of the model."""
    one_centre: bool = False
    """With everywhere: around the base's mean at the dictionary's hook point at every place, for models without biases."""

    @model_validator(mode="after")
    def _only_with_everywhere(self) -> Everywhere:
        if not self.everywhere and (self.last_layer is not None or self.one_centre):
            raise ValueError("last_layer and one_centre go with everywhere: add it, or leave them out")
        return self


class AblateConfig(Asking, Everywhere):
    """Latents removed from the tuned model."""

    latents: Latents = Field(default_factory=list)
    """Latents that are removed; default: the edit of the run's verdict."""
    kind: AblationKind = "project-out"
    """`project-out`: their directions, over a window of layers. `subtract`: what they contribute, at the dictionary's hook point.
    `mean`: set to their mean activation on the base's answers, there."""
    layers: tuple[int, int] | None = None
    """First and last layer of the window; default: as in the run."""
    phase: Phase = "all"
    """At which tokens: response, prompt or all."""
    sinks: SinkTokens = "spare"
    """At attention sinks: spare (leave them alone), edit (as any token) or only (nothing else)."""
    search_layers: bool = False
    """Begin with those layers, and look for the smallest window that still does it, on the run's selection questions."""

    @model_validator(mode="after")
    def _latents_for_other_edits(self) -> AblateConfig:
        other = {"kind", "layers", "phase", "search_layers", "everywhere"} & self.model_fields_set
        if not self.latents and other:
            raise ValueError(f"{min(other)} has no effect on the edit of the run's verdict: name latents, or leave it out")
        return self

    @model_validator(mode="after")
    def _layers_belong_to_projections(self) -> AblateConfig:
        if self.kind != "project-out" and (self.layers or self.search_layers or self.everywhere):
            raise ValueError(f"kind {self.kind} acts at the dictionary's hook point alone: leave layers out, or take kind project-out")
        if self.everywhere and (self.layers or self.search_layers):
            raise ValueError("everywhere leaves no layers to choose: give last_layer, or leave everywhere out")
        return self


class ChatConfig(StepConfig):
    """What is removed from the edited model in a conversation."""

    latents: list[int] = Field(default_factory=list)
    """Latents that are removed from the tuned model; default: the edit of the run's verdict."""
    kind: AblationKind = "project-out"
    """How they are removed, as by `ablate`."""
    layers: tuple[int, int] | None = None
    """First and last layer of the window; default: as in the run."""

    @model_validator(mode="after")
    def _latents_are_named(self) -> ChatConfig:
        if not self.latents and self.model_fields_set - {"latents"}:
            raise ValueError("kind and layers say how latents are removed: name some latents, or leave both out")
        return self


class SweepConfig(StepConfig):
    """Directions added to the base at several doses."""

    latents: Latents = Field(default_factory=list)
    """Latents whose decoder rows are added."""
    directions: list[DirectionName] = Field(default_factory=list)
    """More directions: persona_vector, mean_difference or random:SEED."""
    doses: list[float] = Field(min_length=1)
    """Norms over the unit of doses; with bisect the lowest and the highest."""
    budget: float = Field(default=0.1, ge=0, lt=1)
    """Share of incoherent answers that is allowed."""
    bisect: bool = False
    """Look for the largest coherent dose between two doses."""
    rounds: int = Field(default=4, ge=1)
    """Halvings of that range."""
    questions: int = Field(default=12, ge=2)
    """Selection questions asked at every dose."""
    samples: int = Field(default=1, ge=1)
    """Answers to each."""
    phase: Phase = "response"
    """Where it is added: response, prompt or all."""

    @field_validator("doses")
    @classmethod
    def _positive_and_in_order(cls, doses: list[float]) -> list[float]:
        if not all(0 < dose < float("inf") for dose in doses) or len(set(doses)) < len(doses):
            raise ValueError("a dose is a positive number; name each once")
        return sorted(doses)

    @model_validator(mode="after")
    def _enough_to_do(self) -> SweepConfig:
        if len(set(self.directions)) < len(self.directions):
            raise ValueError("a direction is named twice: name each once")
        if not self.latents and not self.directions:
            raise ValueError("there is nothing to add: give latents or directions")
        if self.bisect and len(self.doses) != 2:
            raise ValueError(f"bisect takes two doses, the lowest and the highest, not {len(self.doses)}")
        if not self.bisect and "rounds" in self.model_fields_set:
            raise ValueError("rounds has no effect without bisect: add bisect")
        return self


class VerdictConfig(StepConfig):
    """A claim that latents carry the behaviour."""

    latents: Latents = Field(default_factory=list)
    """Latents that are removed; default: those that the run's screen chose."""
    steer_latent: int | None = Field(default=None, ge=0)
    """Latent that is added to the base."""
    dose: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Its norm over the unit of doses, the median norm of the base's residuals around their mean."""
    transfer: str | None = None
    """A second fine-tune of the base (hub id, folder or adapter): do the same latents switch it off?"""

    @model_validator(mode="after")
    def _belong_together(self) -> VerdictConfig:
        if (self.steer_latent is None) != (self.dose is None):
            raise ValueError("steer_latent and dose belong together: give both or none")
        if self.steer_latent is not None and not self.latents:
            raise ValueError("steer_latent goes with the latents that are removed: give latents")
        return self


class ExportConfig(Everywhere):
    """An edit made part of a model's files."""

    edit: Literal["ablated", "steered"] | None = None
    """One of the verdict's edits."""
    latents: Latents = Field(default_factory=list)
    """Or: latents to project out of the tuned model."""
    steer_latent: int | None = Field(default=None, ge=0)
    """Or: a latent to add to the base, at every token."""
    dose: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Its norm over the unit of doses, the median norm of the base's residuals around their mean."""
    to: Path | None = None
    """Folder of the edited model; must be new."""
    gguf: Path | None = None
    """Control vector for llama.cpp, of an edit that adds."""

    @model_validator(mode="after")
    def _one_edit(self) -> ExportConfig:
        if self.to is None and self.gguf is None:
            raise ValueError("there is nowhere to write: give to (a folder) or gguf (a file)")
        if sum((self.edit is not None, bool(self.latents), self.steer_latent is not None)) != 1:
            raise ValueError("give one of edit, latents, steer_latent")
        if (self.steer_latent is None) != (self.dose is None):
            raise ValueError("steer_latent and dose belong together: give both or none")
        if self.everywhere and not self.latents:
            raise ValueError("everywhere goes with latents: give them")
        if self.gguf is not None and (self.latents or self.edit == "ablated"):
            raise ValueError("a control vector is added: give gguf with edit steered, or with steer_latent and dose")
        return self
