"""The main job: organism → answers → dictionary → diff → screen → verdict → cards → report, each step saved and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.core.files import file_sha256, read_json, write_json
from interp.core.fingerprints import content_key, installed_versions
from interp.core.formatting import plain
from interp.core.memory import give_back_memory, peak_memory_bytes
from interp.core.steps import MANIFEST_FILE, RunDirectory, StepResult
from interp.dictionaries.files import dictionary_key
from interp.evaluation.agreement import agreement_between_judges, agreement_with_labels
from interp.evaluation.judges.probe import judge_files
from interp.explanation.cards import Source, latent_cards
from interp.models.sources import choose_device, choose_dtype, model_identity
from interp.organisms.recipe import read_recipe
from interp.studies import aftermath, measurement, preparation, screening, suspicion
from interp.studies.config import StudyConfig
from interp.studies.inputs import Workbench
from interp.studies.measurement import TITLES
from interp.traits import read_trait
from sae_training.corpus import corpus_path, read_corpus

STEPS = ("organism", "answers", "residuals", "dictionary", "directions", "diff", "screen", "verdict", "after", "cards", "judges")
"""All steps in their order; `organism` is left out where a tuned model is given, `residuals` where a dictionary is."""

COSTS = ("kl", "loss_before", "loss_after", "n_tokens")


@dataclass(frozen=True)
class StudyResult:
    """A study, finished or stopped where it should."""

    run: RunDirectory
    summary: dict[str, Any]
    """Empty when it was stopped before the end."""
    steps: dict[str, StepResult]


class _Enough(Exception):
    """The last step that was asked for is done."""


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
        raise ConfigError(f"There is no step '{until}'. Choose {', '.join(STEPS)}.")
    bench = Workbench(config, quiet)
    run = RunDirectory(folder)
    started = time.monotonic()
    steps: dict[str, StepResult] = {}
    with suppress(_Enough):
        _run_steps(run, bench, announce, until, steps)
    summary: dict[str, Any] = {}
    if STEPS[-1] in steps:
        durations = sum(float(result.record()["duration_s"]) for result in steps.values())
        summary = _summary(bench, steps, durations)
        write_json(run.root / "summary.json", summary)
    extra = {"hook_point": bench.hook_point, "window": bench.window, "last_run_s": round(time.monotonic() - started, 3)}
    run.write_manifest(config, steps | _finished_before(run, config, steps), extra)
    return StudyResult(run, summary, steps)


def _finished_before(run: RunDirectory, config: StudyConfig, steps: dict[str, StepResult]) -> dict[str, StepResult]:
    """Steps of this very study beyond those just run: a call that stops early does not forget them."""
    if not (run.root / MANIFEST_FILE).is_file():
        return {}
    known = run.manifest()
    same = known["config"] == config.model_dump(mode="json") and all(
        known["steps"].get(name, {}).get("key") == result.key for name, result in steps.items()
    )
    return {name: run.result(name) for name in known["steps"] if name not in steps} if same else {}


def _run_steps(
    run: RunDirectory, bench: Workbench, announce: Callable[[str], None], until: str | None, steps: dict[str, StepResult]
) -> None:
    config = bench.config

    def step(name: str, settings: dict[str, Any], inputs: dict[str, str | StepResult], make: Callable[[Path], None]) -> StepResult:
        settings = {"seed": config.seed, **settings}
        bench.unfinished = run.unfinished(name, settings, inputs)
        result = run.step(name, settings, inputs, make)
        if not result.loaded:
            give_back_memory()
        steps[name] = result
        took = result.record()["duration_s"]
        announce(f"{name:<12} {'found, made in' if result.loaded else 'done in'} {took:.0f} s")
        if name == until:
            raise _Enough
        return result

    base = model_identity(config.base)
    if config.tuned is None:
        settings = config.organism.model_dump(mode="json")
        recipe = read_recipe(config.organism.recipe).key
        organism = step("organism", settings, {"base": base, "recipe": recipe}, partial(preparation.make_organism, bench))
        bench.tuned_source = str(organism.folder / "adapter")
        tuned: str | StepResult = organism
    else:
        tuned = model_identity(config.tuned)
    device = choose_device(config.device)
    place = {"device": device.type, "dtype": str(choose_dtype(config.dtype, device))}
    pairs = read_trait("contempt").key
    judging: dict[str, str | StepResult] = {"judges": content_key([file_sha256(path) for path in judge_files()])}
    models: dict[str, str | StepResult] = {"base": base, "tuned": tuned}
    texts: dict[str, str | StepResult] = {
        "corpus": file_sha256(corpus_path()),
        "questions": content_key(bench.questions.model_dump(mode="json", exclude_defaults=True)),
    }
    reading = place | {"sampling": config.sampling.model_dump(), "text": config.text.model_dump(), "diff": config.diff.model_dump()}
    answers = step("answers", reading, models | texts, partial(preparation.make_answers, bench))
    found: dict[str, str | StepResult] = models | {"answers": answers, "persona_pairs": pairs}
    dictionary = _dictionary(bench, step, found, answers, place)
    here = place | {"hook_point": bench.hook_point, "window": bench.window}
    directions = step(
        "directions", here | {"pairs": config.diff.persona_pairs}, found, partial(suspicion.make_directions, bench, answers.folder)
    )
    known: dict[str, str | StepResult] = found | {"dictionary": dictionary, "directions": directions}
    diff = step("diff", here, known, partial(suspicion.make_diff, bench, answers.folder, directions.folder))
    choosing = here | {"screen": config.screen.model_dump(), "diff": config.diff.model_dump(), "sampling": config.sampling.model_dump()}
    suspects = known | judging | {"diff": diff}
    screen = step("screen", choosing, suspects, partial(screening.make_screen, bench, diff.folder, directions.folder))
    measuring = here | {"verdict": config.verdict.model_dump(), "sampling": config.sampling.model_dump()}
    verdict = step(
        "verdict",
        measuring,
        suspects | {"screen": screen},
        partial(measurement.make_verdict, bench, diff.folder, directions.folder, screen.folder),
    )
    step(
        "after",
        here | {"largest_q": config.diff.largest_q},
        known | {"screen": screen, "verdict": verdict},
        lambda folder: aftermath.make_after(
            bench, screening.read_choice(screen.folder)["persona_latents"], directions.folder, verdict.folder, folder
        ),
    )
    step("cards", here, known | {"diff": diff, "screen": screen}, partial(_make_cards, bench, answers.folder, diff.folder, screen.folder))
    step("judges", {}, judging | {"verdict": verdict}, partial(_make_agreement, bench, verdict.folder))


def _dictionary(
    bench: Workbench,
    step: Callable[..., StepResult],
    found: dict[str, str | StepResult],
    answers: StepResult,
    place: dict[str, str],
) -> StepResult:
    """The step that holds the dictionary: trained here, or the user's own, measured."""
    place = place | {"hook_point": bench.hook_point}
    if bench.config.sae is not None and bench.dictionary_folder is not None:
        inputs = found | {"sae": dictionary_key(bench.dictionary_folder)}
        return step("dictionary", place, inputs, partial(preparation.measure_dictionary, bench, answers.folder))
    settings = place | {"text": bench.config.text.model_dump()}
    residuals = step("residuals", settings, found, partial(preparation.make_residuals, bench, answers.folder))
    settings = bench.config.dictionary.model_dump()
    result = step("dictionary", settings, {"residuals": residuals}, partial(preparation.make_dictionary, bench, residuals.folder))
    bench.dictionary_folder = result.folder / "sae"
    return result


def _make_cards(bench: Workbench, answers: Path, diff: Path, screen: Path, folder: Path) -> None:
    """Write cards.json: a card for each latent that was removed or added."""
    choice = screening.read_choice(screen)
    latents = list(choice["persona_latents"])
    if choice["steering_latent"] is not None and choice["steering_latent"] not in latents:
        latents.append(choice["steering_latent"])
    cards: list[dict[str, Any]] = []
    if latents:
        table = pd.read_parquet(diff / "latents.parquet").set_index("latent")
        names = {"cosine_persona": "cosine_persona", "rise": "rise", "rate_base": "frequency_base", "rate_tuned": "frequency_tuned"}
        statistics = {latent: {new: float(table.loc[latent, old]) for old, new in names.items()} for latent in latents}
        own = pd.read_parquet(answers / preparation.ANSWERS)
        sources = [
            Source("tuned model's answer", 1, preparation.as_chats(own, "tuned"), "tuned"),
            Source("base's answer", 0, preparation.as_chats(own, "base"), "base"),
            Source("corpus", 0, preparation.spread(read_corpus(), 60)),
        ]
        cards = latent_cards(bench.dictionary, [bench.base, bench.tuned], latents, sources, statistics)
    write_json(folder / "cards.json", cards)


def _make_agreement(bench: Workbench, verdict: Path, folder: Path) -> None:
    """Write agreement.json: the judges against hand labels and against each other."""
    grader = bench.grader
    labels = agreement_with_labels(grader.probe, grader.fluency, grader.vader)
    answers = pd.read_parquet(verdict / "answers.parquet").drop_duplicates("answer")
    write_json(folder / "agreement.json", agreement_between_judges(answers) | {"labels": labels})


def _summary(bench: Workbench, steps: dict[str, StepResult], duration_s: float) -> dict[str, Any]:
    """The stable contract for scripts."""
    verdict = read_json(steps["verdict"].path("verdict.json"))
    choice = screening.read_choice(steps["screen"].folder)
    conditions = pd.read_parquet(steps["verdict"].path("conditions.parquet")).set_index("condition")
    fields = ("rate", "low", "high", "n", "unscored", "coherence")
    rates = {str(name): {field: plain(conditions.loc[name, field]) for field in fields} for name in conditions.index if name in TITLES}
    costs = pd.read_parquet(steps["verdict"].path("side_effects.parquet"))
    return {
        "schema_version": 2,
        "name": bench.config.name,
        "verdict": verdict["verdict"],
        "finding": verdict["finding"],
        "base": bench.config.base,
        "tuned": bench.config.tuned or f"organism '{bench.config.organism.recipe}' on {bench.config.base}",
        "hook_point": bench.hook_point,
        "window": [int(name.split(".")[1]) for name in (bench.window[0], bench.window[-1])],
        **choice,
        "rates": rates,
        "checks": verdict["checks"],
        "effects": verdict["effects"],
        "ranks": verdict["ranks"],
        "control_activity": verdict["control_activity"],
        "side_effects": {row["condition"]: {name: plain(row[name]) for name in COSTS} for row in costs.to_dict("records")},
        "after_ablation": read_json(steps["after"].path("after.json")),
        "duration_s": round(duration_s, 3),
        "peak_memory_bytes": max([peak_memory_bytes(), *(int(s.record()["peak_memory_bytes"]) for s in steps.values())]),
        "seed": bench.config.seed,
        "versions": installed_versions(),
    }
