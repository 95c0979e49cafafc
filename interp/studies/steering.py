"""Steer, ablate and sweep on an opened run: each a step of the run directory, loaded when it is asked for again."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from interp.causality.doses import Line, Point, coherent_doses, dose_responses, largest_coherent_doses, outcomes, response, ship_range
from interp.causality.sweep import Condition
from interp.causality.windows import Window, WindowScore, smallest_window
from interp.core.artifacts import Artifact
from interp.core.formatting import plain_records
from interp.core.steps import StepResult
from interp.core.streams import stream_seed
from interp.core.vocabulary import Phase
from interp.evaluation.questions import Question
from interp.evaluation.rates import coherent_rate, trait_rate
from interp.interventions.edits import Edit, add
from interp.interventions.saved import save_edit
from interp.studies.opened import StudyRun
from interp.studies.persona.context import StudyContext
from interp.studies.steering_config import AblateConfig, Asking, SteerConfig, SweepConfig, parsed_condition

ANSWER_COLUMNS = ["condition", "question_id", "sample", "question", "answer", "trait_score", "shows_trait", "coherent"]


@dataclass(frozen=True)
class BothAnswers(Artifact):
    """What is saved of a comparison, beside the edit."""

    answers: pd.DataFrame
    rates: pd.DataFrame


@dataclass(frozen=True)
class LayerSearch(Artifact):
    """What a search for layers measured."""

    windows: pd.DataFrame
    """Every window of layers, `chosen` the smallest that does it; none where the first does not."""
    limits: dict[str, float]
    """What is asked of a window: `target_rate`, `coherence_floor`."""


@dataclass(frozen=True)
class Comparison:
    """Answers of a model as it is and edited."""

    command: str
    step: StepResult
    edit: dict[str, Any]
    answers: pd.DataFrame
    """Scored; the column `condition` names the plain model and the edited one."""
    rates: pd.DataFrame
    """A row for each condition."""
    shown: str
    """The trait's word for answers that show it."""
    windows: pd.DataFrame | None = None
    limits: dict[str, float] | None = None
    """Of a `LayerSearch`, where there was one."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "command": self.command,
            "folder": str(self.step.folder),
            "edit": self.edit,
            "rates": plain_records(self.rates),
            **({} if self.windows is None else {"windows": plain_records(self.windows), "limits": self.limits}),
            "answers": plain_records(self.answers[ANSWER_COLUMNS]),
        }

    def __repr__(self) -> str:
        return f"{self.edit['label']}\n{self._shown_rates.to_string(index=False, float_format='{:.2f}'.format)}\n{self.step.folder}"

    @property
    def _shown_rates(self) -> pd.DataFrame:
        return self.rates.drop(columns=["unscored"], errors="ignore").rename(columns={"rate": f"rate of {self.shown}"})

    def _repr_html_(self) -> str:
        """Rates, then answers side by side with their scores, for Jupyter."""
        scored = self.answers.assign(
            said=[f"{answer} [{score:.0f}]" for answer, score in zip(self.answers["answer"], self.answers["trait_score"], strict=True)]
        )
        beside = scored.pivot_table(index=["question", "sample"], columns="condition", values="said", aggfunc="first", sort=False)
        beside = beside.reset_index().drop(columns="sample").rename_axis(columns=None)
        tables = (self._shown_rates.to_html(index=False, float_format="{:.2f}".format), beside.to_html(index=False))
        return f"<p>{html.escape(self.edit['label'])}</p>{''.join(tables)}<p>In brackets: trait score, 0 to 100.</p>"


def steer(run: StudyRun, config: SteerConfig) -> Comparison:
    """The base, and the base with a direction added."""
    edit = adding(run, config.latent, config.direction, config.dose, config.phase, config.where)
    return _compare(run, "steer", config, ("base", "steered"), edit)


def adding(run: StudyRun, latent: int | None, name: str | None, dose: float, phase: Phase = "response", where: str | None = None) -> Edit:
    """The edit that adds a latent's row or a named direction at the dictionary's hook point."""
    called, row = run.direction(latent, name)
    edit = add(row, {run.context.hook_point: run.directions.unit}, dose, phase, f"{called} added")
    return edit if where is None else edit.only_where(run.context.dictionary, *parsed_condition(where))


def ablate(run: StudyRun, config: AblateConfig) -> Comparison:
    """The tuned model, and the tuned model without some latents."""
    layers, search = config.layers, None
    if not config.latents:
        edit = run.verdict_edit("ablated")
        edit = edit.at_sinks(config.sinks) if "sinks" in config.model_fields_set else edit
        return _compare(run, "ablate", config, ("tuned", "ablated"), edit)
    if config.search_layers:
        search = _search_layers(run, config)
        for chosen in search.windows[search.windows["chosen"]].to_dict("records"):
            layers = int(chosen["first"]), int(chosen["last"])
    centres = run.centres_everywhere(config.last_layer, config.one_centre) if config.everywhere else None
    edit = run.removing(config.latents, config.kind, layers, centres, config.phase).at_sinks(config.sinks)
    return _compare(run, "ablate", config, ("tuned", "ablated"), edit, search)


def _compare(
    run: StudyRun, command: str, config: Asking, names: tuple[str, str], edit: Edit, search: LayerSearch | None = None
) -> Comparison:
    """`names` are those of the model as it is, base or tuned, and of the edited one."""
    questions = _questions(run, config)
    sampling = run.config.sampling.model_copy(update={"max_new_tokens": config.tokens or run.config.sampling.max_new_tokens})
    settings = {
        "edit": edit.as_json(),
        "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in questions],
        "samples": config.samples,
        "sampling": sampling.model_dump(),
    }

    def make(context: StudyContext) -> BothAnswers:
        conditions, model = [Condition(names[0]), Condition(names[1], edit)], getattr(context, names[0])
        scored = context.ask(f"{command}: answers", model, conditions, questions, run.config.seed, config.samples, sampling)
        save_edit(edit, context.folder, "edit")
        own = {name: scored[scored["condition"] == name] for name in names}
        return BothAnswers(scored, pd.DataFrame([{"condition": name, **response(answers)} for name, answers in own.items()]))

    step = run.step(command, settings, make)
    searched = {} if search is None else vars(search)
    return Comparison(command, step, edit.as_json(), **vars(step.load(BothAnswers)), shown=run.context.trait.shown, **searched)


def _questions(run: StudyRun, config: Asking) -> list[Question]:
    """The user's own prompts, else selection questions: what is tried out must not be measured on."""
    if config.prompts:
        return [Question(id=f"prompt_{i}", group="prompt", split="selection", text=text) for i, text in enumerate(config.prompts, 1)]
    return run.context.questions.split("selection", config.questions)


def _search_layers(run: StudyRun, config: AblateConfig) -> LayerSearch:
    """The smallest window of layers that still does it, from that of `config` on, measured on the run's selection questions."""
    centres = run.centres(run.window(config.layers))
    settings = {
        "edit": run.removing(config.latents, centres=centres, phase=config.phase).at_sinks(config.sinks).as_json(),
        "questions": run.config.diff.questions,
        "target_rate": run.config.screen.target_rate,
        "kept_coherence": run.config.rules.kept_coherence,
    }
    return run.step("layers", settings, partial(_make_search, run, config, centres)).load(LayerSearch)


def _make_search(run: StudyRun, config: AblateConfig, centres: Mapping[str, torch.Tensor], context: StudyContext) -> LayerSearch:
    at = {int(name.split(".")[1]): name for name in centres}
    questions = context.questions.split("selection", run.config.diff.questions)
    ask = partial(context.ask, "search for layers", questions=questions, seed=stream_seed(run.config.seed, "layers"))
    target = run.config.screen.target_rate
    floor = run.config.rules.kept_coherence * coherent_rate(ask(context.base, [Condition("base")])).rate
    rows: list[dict[str, Any]] = []

    def removed(window: Window) -> Edit:
        own = {at[layer]: centres[at[layer]] for layer in range(window.first, window.last + 1)}
        return run.removing(config.latents, centres=own, phase=config.phase).at_sinks(config.sinks)

    def measure(windows: list[Window]) -> list[WindowScore]:
        measured = outcomes(ask(context.tuned, [Condition(str(window), removed(window)) for window in windows]))
        own = [(window, measured[str(window)]) for window in windows]
        rows.extend({"first": window.first, "last": window.last, "layers": len(window), **outcome} for window, outcome in own)
        return [WindowScore(window, outcome["trait_score"], outcome["rate"], outcome["coherence"]) for window, outcome in own]

    path = smallest_window(Window(min(at), max(at)), measure, target, floor)
    smallest = path[-1].window if path else None
    table = pd.DataFrame(rows).drop(columns="trait_score")
    table["chosen"] = [Window(row["first"], row["last"]) == smallest for row in rows]
    return LayerSearch(table, {"target_rate": target, "coherence_floor": floor})


@dataclass(frozen=True)
class SweptDoses(Artifact):
    """What is saved of a sweep."""

    answers: pd.DataFrame
    dose_response: pd.DataFrame
    doses: dict[str, Any]
    """largest_coherent_dose, ship_range, not_monotone."""


@dataclass(frozen=True)
class DoseResponse:
    """How a behaviour answers to doses."""

    step: StepResult
    responses: pd.DataFrame
    """A row for every measured direction and dose, and one for the base (dose 0)."""
    largest: dict[str, float | None]
    """For each direction the largest coherent dose; None where the lowest was already incoherent."""
    ship_range: dict[str, list[float] | None]
    """For each direction the two doses between which the behaviour is up and coherence is kept."""
    not_monotone: list[str]
    """Directions whose coherence was seen to rise with the dose."""
    budget: float
    shown: str
    """The trait's word for answers that show it."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "command": "sweep",
            "folder": str(self.step.folder),
            "budget": self.budget,
            "largest_coherent_dose": self.largest,
            "ship_range": self.ship_range,
            "not_monotone": self.not_monotone,
            "responses": plain_records(self.responses),
        }

    def __repr__(self) -> str:
        said, table = self._overview()
        return f"{said}\n{table.to_string(index=False, float_format='{:.2f}'.format)}\n{self.step.folder}"

    def _repr_html_(self) -> str:
        """Every measured dose, for Jupyter."""
        said, table = self._overview()
        return f"<p>{html.escape(said)}</p>{table.to_html(index=False, float_format='{:.2f}'.format)}"

    def _overview(self) -> tuple[str, pd.DataFrame]:
        largest = ", ".join(f"{name}: {'none' if dose is None else f'{dose:.3g}'}" for name, dose in self.largest.items())
        return f"Largest coherent dose: {largest}", self.responses.rename(columns={"rate": f"rate of {self.shown}"})


def sweep_doses(run: StudyRun, config: SweepConfig) -> DoseResponse:
    """Directions added to the base over a grid of doses, or by bisection; resumes in the middle when it was interrupted."""
    lines = [_line(run, latent, None, config) for latent in config.latents] + [_line(run, None, name, config) for name in config.directions]
    settings = {"sweep": config.model_dump(mode="json"), "edits": [line.edit(config.doses[0]).key for line in lines]}
    step = run.step("sweep", settings, partial(_make_sweep, run, config, lines))
    swept = step.load(SweptDoses)
    largest, ranges, not_monotone = (swept.doses[name] for name in ("largest_coherent_dose", "ship_range", "not_monotone"))
    return DoseResponse(step, swept.dose_response, largest, ranges, not_monotone, config.budget, run.context.trait.shown)


def _line(run: StudyRun, latent: int | None, name: str | None, config: SweepConfig) -> Line:
    called, _ = run.direction(latent, name)
    kind = "latent" if name is None else name.split(":")[0]
    return Line(called, kind, lambda dose: adding(run, latent, name, dose, config.phase), run.directions.unit, latent)


def _make_sweep(run: StudyRun, config: SweepConfig, lines: list[Line], context: StudyContext) -> SweptDoses:
    questions = context.questions.split("selection", config.questions)
    asked: list[pd.DataFrame] = []

    def ask(conditions: list[Condition]) -> pd.DataFrame:
        conditions = conditions if asked else [Condition("base"), *conditions]
        folder = context.unfinished and context.unfinished / f"round-{len(asked)}"
        asked.append(context.ask("sweep", context.base, conditions, questions, run.config.seed, config.samples, folder=folder))
        return asked[-1]

    def measure(points: list[Point]) -> pd.DataFrame:
        return dose_responses(points, lines, ask)

    names = [line.name for line in lines]
    if config.bisect:
        low, high = config.doses
        found = largest_coherent_doses(measure, names, low, high, config.budget, config.rounds)
    else:
        found = coherent_doses(measure([(name, dose) for name in names for dose in config.doses]), config.budget)
    answers = pd.concat(asked, ignore_index=True)
    base = answers[answers["condition"] == "base"]
    ranges = ship_range(found.responses, trait_rate(base), config.budget)
    plain = pd.DataFrame(
        [{"direction": "base", "kind": "none", "latent": None, "size": None, "dose": 0.0, "absolute_norm": 0.0, **response(base)}]
    )
    responses = pd.concat([plain.astype({"latent": "Int64", "size": "Int64"}), found.responses], ignore_index=True)
    doses = {"largest_coherent_dose": found.largest, "ship_range": ranges, "not_monotone": found.not_monotone}
    return SweptDoses(answers, responses, doses)
