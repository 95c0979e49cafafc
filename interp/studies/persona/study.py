"""The main job: its steps in order, each saved and resumable, and the summary of a finished run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, did_you_mean
from interp.core.files import write_json
from interp.core.fingerprints import installed_versions
from interp.core.formatting import plain, plain_records
from interp.core.memory import give_back_memory, peak_memory_bytes
from interp.core.steps import MANIFEST_FILE, RunDirectory, Step, StepResult, step_key
from interp.models.hook_points import resid_post
from interp.studies.persona.after import AFTER
from interp.studies.persona.answers import ANSWERS, TEXTS
from interp.studies.persona.benign import BENIGN
from interp.studies.persona.cards import CARDS
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.cues import CUES, HIDING
from interp.studies.persona.dictionary import OPEN_DICTIONARY, RESIDUALS, TRAIN_DICTIONARY
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.evidence import EVIDENCE, EVIDENCE_BESIDE_BENIGN
from interp.studies.persona.fit import FIT
from interp.studies.persona.forecast import expected_seconds
from interp.studies.persona.layers import LAYERS, LayerChoice, layer_choice
from interp.studies.persona.organism import ORGANISM
from interp.studies.persona.pairs import PAIRS
from interp.studies.persona.persona_vectors import PERSONA_VECTORS, SCREEN_ALONG_ANSWERS
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.user_tokens import USER_TOKENS
from interp.studies.persona.verdict import JUDGES, VERDICT
from interp.traits import read_trait

ALL_STEPS = (ORGANISM, PAIRS, TEXTS, RESIDUALS, TRAIN_DICTIONARY, OPEN_DICTIONARY, ANSWERS, DIRECTIONS, BENIGN, DIFF, FIT,
             PERSONA_VECTORS, SCREEN, SCREEN_ALONG_ANSWERS, EVIDENCE, EVIDENCE_BESIDE_BENIGN,
             VERDICT, CUES, HIDING, AFTER, USER_TOKENS, CARDS, JUDGES)  # fmt: skip
STEPS = tuple(dict.fromkeys(step.name for step in ALL_STEPS))
"""Names of all steps in their order. `organism` is left out where a tuned model is given, `pairs` where the trait has its own, `residuals`
where a dictionary is given, `benign` where no benign fine-tune is, `cues` and `hiding` where no cues are."""
OF_ALL_LAYERS = ("base", "tuned", "questions", "corpus", "pairs", "panel")
"""What a context has opened that is the same at every layer."""
COSTS = ("kl", "loss_before", "loss_after", "n_tokens")


def steps_of(config: StudyConfig) -> dict[str, Step[StudyContext, Any]]:
    """The steps of one study, by name, in order."""
    left_out: list[Step[StudyContext, Any]] = [ORGANISM] if config.tuned is not None else []
    left_out += [PAIRS] if read_trait(config.trait).pairs else []
    left_out += [CUES, HIDING] if config.cues.source is None else []
    left_out += [TRAIN_DICTIONARY, RESIDUALS] if config.sae is not None else [OPEN_DICTIONARY]
    left_out += [EVIDENCE] if config.benign else [BENIGN, EVIDENCE_BESIDE_BENIGN]
    left_out += [SCREEN_ALONG_ANSWERS if config.vectors.ranked_along == "pairs" else SCREEN]
    return {step.name: step for step in ALL_STEPS if step not in left_out}


class Study:
    """The steps of one study in one run directory. Its keys need no step to be made: they follow from settings and outside data."""

    def __init__(self, config: StudyConfig, run: RunDirectory, quiet: bool = False) -> None:
        self.config, self.run, self.steps = config, run, steps_of(config)
        self.results: dict[str, StepResult] = {}
        self.keys: dict[str, str] = {}
        self.context = StudyContext(config, self.results.__getitem__, quiet)

    def at_layer(self, layer: int) -> Study:
        """The study of one of the candidate layers; what does not depend on the layer it opens once with this one."""
        config = self.config.model_copy(update={"layers": None, "hook_point": resid_post(layer)})
        study = Study(config, self.run, self.context.quiet)
        study.context.opened.update({name: value for name, value in self.context.opened.items() if name in OF_ALL_LAYERS})
        return study

    def origin(self, name: str) -> tuple[str, dict[str, Any], dict[str, str]]:
        """What the key of a step is made of: its name, the settings it declares, the keys of its inputs."""
        step = self.steps[name]
        return name, step.settings_of(self.config), {one: self.input_key(one) for one in step.inputs}

    def input_key(self, name: str) -> str:
        """The key of an earlier step, or of outside data."""
        source = "organism" if name == "tuned" and self.config.tuned is None else name
        if source not in self.keys:
            self.keys[source] = step_key(*self.origin(source)) if source in self.steps else self.context.data_key(source)
        return self.keys[source]

    def make(self, name: str) -> StepResult:
        """Make a step, or load it; those that it reads must be there."""
        step, origin = self.steps[name], self.origin(name)
        unfinished = self.run.unfinished(*origin)

        def make(folder: Path) -> None:
            step.make(self.context.of_step(step, folder, unfinished)).save(folder)

        self.results[name] = self.run.step(*origin, make)
        return self.results[name]


@dataclass(frozen=True)
class StudyResult:
    """A study, finished or stopped where it should."""

    run: RunDirectory
    summary: dict[str, Any]
    """Empty when it was stopped before the end."""
    steps: dict[str, StepResult]


def run_study(
    config: StudyConfig,
    folder: Path,
    quiet: bool = False,
    announce: Callable[[str], None] = lambda line: None,
    until: str | None = None,
) -> StudyResult:
    """Run or resume the study in `folder`, up to and with the step `until`; `announce` gets one line a step.

    Raises `PersonascopeError` on wrong input.
    """
    if until is not None and until not in STEPS:
        raise ConfigError(f"There is no step '{until}'.{did_you_mean(until, STEPS)} Choose {', '.join(STEPS)}.")
    if config.layers is not None and until is not None and STEPS.index(until) < STEPS.index(FIT.name):
        raise ConfigError(
            f"A layer is chosen after the step '{FIT.name}', so the run cannot stop at '{until}'. Give hook_point for layers."
        )
    run = RunDirectory(folder)
    study = Study(config, run, quiet)
    study.context.check()
    started = time.monotonic()
    tried = _choose_layer(study, announce) if config.layers is not None else []
    _make(study, until or STEPS[-1], announce)
    steps, context, summary = study.results, study.context, {}
    if STEPS[-1] in steps:
        summary = _summary(study, tried)
        write_json(run.root / "summary.json", summary)
    extra = {
        "hook_point": context.hook_point,
        "layers": _layers(study),
        "window": context.window,
        "last_run_s": round(time.monotonic() - started, 3),
    }
    if PAIRS.name in steps:
        extra["sampled_pairs"] = context.load(PAIRS).made
    run.write_manifest(config, steps | _finished_before(run, config, steps), extra)
    return StudyResult(run, summary, steps)


def _make(study: Study, until: str, announce: Callable[[str], None]) -> None:
    """Make or load the steps up to and with `until`."""
    names = [name for name in study.steps if STEPS.index(name) <= STEPS.index(until)]
    announce(_outlook(study, names))
    for name in names:
        result = study.make(name)
        if not result.loaded:
            give_back_memory()
        announce(f"{name:<16} {'loaded, took' if result.loaded else 'done in'} {result.record()['duration_s']:.0f} s")


def _choose_layer(study: Study, announce: Callable[[str], None]) -> list[StepResult]:
    """Bring the study at every candidate layer as far as `fit`, and choose one; all that was made for it."""
    candidates: dict[int, Study] = {}
    for layer in sorted(study.config.layers or []):
        announce(f"layer {layer}")
        one = candidates[layer] = study.at_layer(layer)
        _make(one, FIT.name, announce)
        study.context.opened.update({name: value for name, value in one.context.opened.items() if name in OF_ALL_LAYERS})
        one.context.opened.clear()  # one dictionary at a time
    keys = {f"layer {layer}": one.results[FIT.name].key for layer, one in candidates.items()}

    def choose(folder: Path) -> None:
        found = {layer: (one.context.load(FIT).fit, one.context.load(DIFF).moments) for layer, one in candidates.items()}
        layer_choice(found).save(folder)

    study.results[LAYERS] = study.run.step(LAYERS, {}, keys, choose)
    announce(f"layer {study.results[LAYERS].load(LayerChoice).choice['layer']} is chosen")
    return [result for one in candidates.values() for result in one.results.values()]


def _outlook(study: Study, names: Sequence[str]) -> str:
    """Those of the steps that are still to do, and how long they will take."""
    left = [name for name in names if not study.run.is_finished(*study.origin(name))]
    if not left:
        return f"all {len(names)} steps are finished"
    minutes = expected_seconds(study.config, left) / 60
    return f"{len(left)} of {len(names)} steps to do, about {max(1, round(minutes))} min on this machine: {', '.join(left)}"


def _finished_before(run: RunDirectory, config: StudyConfig, steps: dict[str, StepResult]) -> dict[str, StepResult]:
    """Steps of this very study beyond those just run: a call that stops early does not forget them."""
    if not (run.root / MANIFEST_FILE).is_file():
        return {}
    known = run.manifest()
    same = known["config"] == config.model_dump(mode="json") and all(
        known["steps"].get(name, {}).get("key") == result.key for name, result in steps.items()
    )
    return {name: run.result(name) for name in known["steps"] if name not in steps} if same else {}


def _summary(study: Study, tried: Sequence[StepResult]) -> dict[str, Any]:
    """The stable contract for scripts; `tried` are the steps that were made to choose a layer."""
    config, context = study.config, study.context
    records = [result.record() for result in {result.key: result for result in (*tried, *study.results.values())}.values()]
    verdict, evidence = context.load(VERDICT), context.load(EVIDENCE)
    conditions = verdict.conditions[verdict.conditions["replicate"] == 0].set_index("condition")
    fields = ("role", "title", "rate", "low", "high", "n", "unscored", "coherence")
    return {
        "schema_version": 4,
        "name": config.name,
        "trait": context.trait.model_dump(include={"name", "shown", "not_shown"}),
        "base": config.base,
        "tuned": config.tuned or f"organism '{study.context.recipe}' on {config.base}",
        "hook_point": context.hook_point,
        "layers": _layers(study),
        "window": [int(name.split(".")[1]) for name in (context.window[0], context.window[-1])],
        **context.load(SCREEN).choice,
        **verdict.verdict,
        "rates": {name: {field: plain(conditions.loc[name, field]) for field in fields} for name in conditions.index},
        "control_activity": evidence.control_activity,
        "sinks": evidence.sinks,
        "dictionary_fit": context.load(FIT).fit,
        "persona_vectors": context.load(PERSONA_VECTORS).agreement,
        "plan": evidence.plan,
        "side_effects": {row["condition"]: {name: plain(row[name]) for name in COSTS} for row in evidence.side_effects.to_dict("records")},
        "cues": context.load(HIDING).hiding if HIDING.name in study.steps else None,
        "after_ablation": context.load(AFTER).after,
        "user_tokens": context.load(USER_TOKENS).activation,
        "duration_s": round(sum(float(record["duration_s"]) for record in records), 3),
        "peak_memory_bytes": max([peak_memory_bytes(), *(int(record["peak_memory_bytes"]) for record in records)]),
        "seed": config.seed,
        "versions": installed_versions(),
    }


def _layers(study: Study) -> dict[str, Any] | None:
    """The layer that was chosen, by which rule, and all candidates; None where none was to be chosen."""
    if LAYERS not in study.results:
        return None
    made = study.results[LAYERS].load(LayerChoice)
    return {**made.choice, "candidates": plain_records(made.layers)}
