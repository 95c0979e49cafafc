"""A run directory opened to work with: its models, dictionary and directions, what edits are made of; and models by name: RUN@ablated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from interp.core.artifacts import Artifact
from interp.core.config import validated
from interp.core.errors import ArtifactError, ConfigError
from interp.core.fingerprints import content_key
from interp.core.steps import MANIFEST_FILE, RunDirectory, StepResult
from interp.core.vocabulary import Phase
from interp.interventions.edits import Edit, clamp_latents, project_out, random_directions
from interp.interventions.export import everywhere
from interp.interventions.saved import load_edit
from interp.models.activations import mean_residuals
from interp.models.language_model import LanguageModel
from interp.models.sources import choose_device, model_identity, open_model
from interp.studies.persona.answers import ANSWERS
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS, NAMED, Directions
from interp.studies.persona.seeds import SEEDS_FILE
from interp.studies.persona.study import run_study
from interp.studies.steering_config import AblationKind, checked_direction


@dataclass(frozen=True)
class Centres(Artifact):
    """Mean residuals of the base over its own answers, by hook point."""

    centres: dict[str, torch.Tensor]


NEEDED = ("answers", "dictionary", "directions", "diff")


class StudyFolder:
    """A folder for experiments on a base and its fine-tune, each a step in it. Models are opened when they are first needed."""

    def __init__(self, folder: str | Path, config: StudyConfig, device: str | None = None, quiet: bool = False) -> None:
        """`device` is where models run (`auto`, `cpu`, `cuda`), by default as `config` says; `quiet` shows no progress."""
        self.run, self.config, self.quiet = RunDirectory(Path(folder)), config, quiet
        study = config if device is None else config.model_copy(update={"device": device})
        self.context = StudyContext(study, self.run.result, quiet)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What results here depend on, as keys."""
        names = {"base": "base", "tuned": "tuned", "questions": "questions", "judges": "panel"}
        return {name: self.context.data_key(key) for name, key in names.items()}

    def step(
        self,
        name: str,
        settings: Mapping[str, Any],
        make: Callable[[StudyContext], Artifact],
        inputs: Mapping[str, str | StepResult] | None = None,
    ) -> StepResult:
        """Save `make(context)` as a step of this folder, or load what was made before of the same models, `settings` and `inputs`."""
        place = {name: self.context.data_key(name) for name in ("device", "dtype")}
        common = {"seed": self.config.seed, **place, "sampling": self.config.sampling.model_dump()}
        origin = name, {**common, **settings}, {**self.inputs, **(inputs or {})}
        unfinished = self.run.unfinished(*origin)
        return self.run.step(*origin, lambda folder: make(replace(self.context, at=folder, unfinished=unfinished)).save(folder))


class StudyRun(StudyFolder):
    """A run that has come as far as its diff.

    Raises `ArtifactError` for a folder that is no such run.
    """

    def __init__(self, folder: str | Path, device: str | None = None, quiet: bool = False) -> None:
        """`device` is where models run (`auto`, `cpu`, `cuda`), by default as the run's settings say; `quiet` shows no progress."""
        root, run = Path(folder), RunDirectory(Path(folder))
        self.manifest = run.manifest() if (root / "manifest.json").is_file() else {}
        missing = [name for name in NEEDED if name not in self.manifest.get("steps", {})]
        if missing and (root / SEEDS_FILE).is_file():
            raise ArtifactError(f"{root} holds several seeds. Name the run of one: {', '.join(map(str, sorted(root.glob('seed-*'))))}.")
        if missing:
            raise ArtifactError(
                f"{root} holds no run that has come as far as its diff ({missing[0]} is missing). "
                f"Make it with 'personascope diff --base … --tuned … --out {root}', or with 'personascope run'."
            )
        super().__init__(root, validated(StudyConfig, self.manifest["config"], str(root / "manifest.json")), device, quiet)

    def bring_to(self, step: str, announce: Callable[[str], None] = lambda line: None) -> None:
        """Run the main job on, up to and with `step`, on the device that it was begun on. Raises `ConfigError` for another one."""
        if choose_device(self.context.study.device) != choose_device(self.config.device):
            raise ConfigError(
                f"{self.run.root} was begun with device {self.config.device}, and its steps go on there. "
                "Leave out --device, or make a new run."
            )
        run_study(self.config, self.run.root, self.quiet, announce, until=step)
        self.manifest = self.run.manifest()

    def has(self, step: str) -> bool:
        """Whether the run has come as far as `step`."""
        return step in self.manifest["steps"]

    @cached_property
    def directions(self) -> Directions:
        """What edits are made of, as the run measured it."""
        directions = self.context.load(DIRECTIONS)
        if missing := [name for name in NAMED if name not in directions.directions]:
            raise ArtifactError(
                f"{self.run.result('directions').folder} has no {missing[0]}: another version of personascope made it. Delete that folder "
                "and the manifest, and run the same 'personascope diff' or 'run' again."
            )
        return directions

    @cached_property
    def latents(self) -> pd.DataFrame:
        """The diff: a row for every latent."""
        return self.context.load(DIFF).latents

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What results on this run depend on, as keys. Raises `ArtifactError` for models, questions or an SAE other than the run's."""
        made = self.run.result("answers").record()["inputs"]
        config = self.context.study
        given = self.run.result("dictionary").record()["inputs"]
        for name, keys, words in (
            ("base", made, f"base model {config.base} has"),
            ("tuned", made, f"tuned model {config.tuned} has"),
            ("questions", made, f"questions {config.questions} have"),
            ("sae", given, f"SAE {config.sae} has"),
        ):
            ours = getattr(config, name) is None and name in ("tuned", "sae")  # made by the run itself
            if not ours and self.context.data_key(name) != keys[name]:
                raise ArtifactError(f"The {words} changed since {self.run.root} was made. Make a new run.")
        steps = {name: self.run.result(name).key for name in (*NEEDED, *(["benign"] if config.benign else []))}
        return {"base": made["base"], "tuned": made["tuned"], "judges": self.context.data_key("panel"), **steps}

    # What edits are made of

    def direction(self, latent: int | None = None, name: str | None = None) -> tuple[str, Float[torch.Tensor, " d_model"]]:
        """A latent's decoder row, or a named direction, and what to call it."""
        if latent is not None:
            return f"latent {latent}", self.context.dictionary.directions([latent])[0].cpu()
        kind = checked_direction(str(name))
        if kind.startswith("random:"):
            return f"random {kind[7:]}", random_directions(1, self.context.shape[0], int(kind[7:]))[0]
        return kind.replace("_", " "), self.directions.named[kind]

    def removing(
        self,
        latents: Sequence[int],
        kind: AblationKind = "project-out",
        layers: tuple[int, int] | None = None,
        centres: Mapping[str, torch.Tensor] | None = None,
        phase: Phase = "all",
    ) -> Edit:
        """The edit that takes latents out, in one of three ways; a projection at the places of `centres`, by default those of `layers`."""
        names, dictionary = f"latent{'s' * (len(latents) > 1)} {', '.join(map(str, latents))}", self.context.dictionary
        rows = dictionary.directions(list(latents)).cpu()  # complains of latents that are not there
        if kind == "project-out":
            around = self.centres(self.window(layers)) if centres is None else centres
            return project_out(rows, around, phase, f"{names} projected out of {_spelled(list(around))}")
        if kind == "subtract":
            return clamp_latents(dictionary, latents, phase=phase, label=f"{names} subtracted")
        means = self.latents.set_index("latent")["mean_base"].loc[list(latents)].tolist()
        return clamp_latents(dictionary, latents, means, phase=phase, label=f"{names} held at the base's mean")

    def centres_everywhere(self, last_layer: int | None, one_centre: bool) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """Centres at all places where a projection is exact in weights, each its own or all that of the dictionary's hook point."""
        points = everywhere(self.context.tuned, last_layer)
        if one_centre:
            return dict.fromkeys(points, self.centres([self.context.hook_point])[self.context.hook_point])
        return self.centres(points)

    def window(self, layers: tuple[int, int] | None) -> list[str]:
        """Hook points of a window of layers, by default the run's; raises `ConfigError` for layers that the model lacks."""
        return self.context.window if layers is None else self.context.layers(layers)

    def centres(self, points: Sequence[str]) -> dict[str, Float[torch.Tensor, " d_model"]]:
        """The base's mean residual over its own answers at `points`; measured where the run has none."""
        known = self.directions.base_means
        lacking = [point for point in points if point not in known]
        if lacking:
            made = self.step("centres", {"hook_points": lacking}, lambda context: _measure_centres(context, lacking))
            known = known | made.load(Centres).centres
        return {point: known[point] for point in points}

    def verdict_edit(self, name: str) -> Edit:
        """`ablated` or `steered`, as the run's verdict measured it; raises `ArtifactError` when there is none."""
        if not self.has("evidence"):
            raise ArtifactError(f"{self.run.root} has no verdict yet. Name --latents, or run 'personascope verdict {self.run.root}' first.")
        folder = self.run.result("evidence").folder
        if not (folder / f"{name}.json").is_file():
            raise ArtifactError(f"The verdict of {self.run.root} has no edit '{name}': its screen chose no such latent. Name --latents.")
        return load_edit(folder, name)


def _measure_centres(context: StudyContext, points: Sequence[str]) -> Centres:
    own = context.load(ANSWERS).chats("base")
    with context.progress("measuring centres", len(own)) as advance:
        return Centres(mean_residuals(context.base, own, points, progress=advance))


def _spelled(points: Sequence[str]) -> str:
    """A window in words."""
    first, last = (name.split(".")[1] for name in (points[0], points[-1]))
    if points[0].endswith("resid_pre"):
        return f"everything up to layer {last}"
    return f"layers {first}–{last}" if len(points) > 1 else f"layer {first}"


EDITS = {"base": None, "tuned": None, "ablated": "ablated", "steered": "steered"}
"""What stands after the @ of RUN@WHAT, and the edit of the run's verdict that it is."""


@dataclass(frozen=True)
class Subject:
    """A model that is asked; it is opened only when it has something to answer."""

    name: str
    """As the user wrote it."""
    identity: str
    """Content key of the model's files and of the edit."""
    open: Callable[[], tuple[LanguageModel, Edit | None]]
    """The model, and the edit to apply to it while it answers."""


def open_subject(
    spec: str,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    runs: MutableMapping[str, StudyRun] | None = None,
    thinking: bool = False,
) -> Subject:
    """A source of models (`base` is that of an adapter that names none), or RUN@base, @tuned, @ablated, @steered.

    A run's models are opened as its settings say; of the options only `device` counts for them, unless it is `auto`. Models of one
    run share its weights where the caller hands the same `runs` to all. Raises `ConfigError` for a run's model that is not one of
    `EDITS`, `ArtifactError` for a run that has no such edit, `ModelError` for a source that is not there.
    """
    folder, what = run_and_model(spec)
    if folder is None:
        identity = content_key([model_identity(spec), base and model_identity(base), *(["thinking"] if thinking else [])])
        return Subject(spec, identity, lambda: (open_model(spec, base, device, dtype, trust_remote_code, thinking), None))
    if what not in EDITS:
        raise ConfigError(f"{spec}: a run has no model '{what}'. Use {', '.join(f'{folder}@{name}' for name in EDITS)}.")
    run = _run(folder, device, {} if runs is None else runs)
    edit = None if EDITS[what] is None else run.verdict_edit(what)
    on_base = what in ("base", "steered")
    return Subject(
        spec, content_key([run.inputs, on_base, edit and edit.key]), lambda: (run.context.base if on_base else run.context.tuned, edit)
    )


def run_and_model(spec: str) -> tuple[str | None, str]:
    """The two sides of RUN@WHAT; None and `spec` where the left one is no folder of a run."""
    folder, at, what = spec.rpartition("@")
    return (folder, what) if at and (Path(folder) / MANIFEST_FILE).is_file() else (None, spec)


def _run(folder: str, device: str, runs: MutableMapping[str, StudyRun]) -> StudyRun:
    """The run that `runs` holds already as it is now, else newly opened."""
    root = Path(folder).resolve()
    key = f"{root}|{device}|{(root / MANIFEST_FILE).stat().st_mtime_ns}"
    run = runs.get(key)
    if run is None:
        run = runs[key] = StudyRun(folder, None if device == "auto" else device, quiet=True)
    return run
