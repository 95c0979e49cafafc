"""Step `evidence`, on held-out questions that played no part in any choice: treatments, controls, references, and what an edit costs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp.causality.conditions import OWN_REMOVAL, Control, arm
from interp.causality.evidence import Claim, Trial, activation_matched, gather_evidence, relative_activity
from interp.causality.finding_sentence import called
from interp.causality.power import SamplePlan, answers_of, plan_samples
from interp.causality.removals import Removal, Target, removals
from interp.causality.side_effects import side_effects
from interp.causality.sweep import Condition
from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from interp.core.artifacts import Artifact, in_place
from interp.core.errors import EditWarning
from interp.core.formatting import plain
from interp.core.steps import Step
from interp.core.streams import stream_seed
from interp.diffing.moments import load_diff
from interp.evaluation.questions import Question
from interp.interventions.edits import Edit
from interp.interventions.saved import load_edit, save_edit
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import MODELS, evenly_spaced
from interp.studies.persona.benign import BENIGN
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.screen_removals import LARGEST_SPAN
from interp.studies.persona.targets import latent_direction, latent_target, principal_target

ORDINARY_CHATS = 24
MATCHED_RATIO = (0.5, 2.0)
"""Mean activation of activation-matched controls over that of the latents under test: outside of this a warning says how far off it is."""


@dataclass(frozen=True)
class Evidence(Artifact):
    """What was measured of a claim."""

    answers: pd.DataFrame
    """Scored answers under every condition, with the columns of `gather_evidence`."""
    side_effects: pd.DataFrame
    """What the edits cost on ordinary chats, a row for each condition."""
    control_activity: dict[str, float | None]
    """How active the controls are, over what they stand beside: by `removed`, `added`."""
    sinks: dict[str, int]
    """Positions of attention sinks, which the edits leave alone, and in how many of the questions' prompts each is one."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The `SamplePlan` of what was asked; empty where the rates on selection questions were not measured."""
    folder: Path = in_place(".")
    """Where the edits lie."""

    def edit(self, name: str) -> Edit:
        """`ablated` or `steered`; raises `EditError` where there is none."""
        return load_edit(self.folder, name)


def make_evidence(context: StudyContext) -> Evidence:
    """Evidence on what the screen chose."""
    return evidence_on(context, context.load(SCREEN).choice, context.folder)


def evidence_on(context: StudyContext, choice: Mapping[str, Any], folder: Path) -> Evidence:
    """Evidence on the latents of `choice`, and the edits themselves in `folder`."""
    config, plan = planned(context, choice)
    trial, claim, activity = make_claim(context, choice, config)
    answers = gather_evidence(trial, claim, config)
    edits: dict[str, Edit] = {}
    if claim.of_latents:
        edits["ablated"] = trial.remove(claim.removed, f"{called(choice['persona_latents'])} removed")
        if claim.added is not None and trial.add is not None:
            edits["steered"] = trial.add(claim.added, f"{called(choice['steering_latents'])} added")
    for name, edit in edits.items():
        save_edit(edit, folder, name)
    _warn_of_unequal_controls(activity)
    ratios = {name: plain(ratio) for name, ratio in activity.items()}
    sinks = Counter(str(position) for _, positions in sinks_of(context.tuned, trial.questions) for position in positions)
    return Evidence(answers, _side_effects(context, edits), ratios, dict(sinks), {} if plan is None else asdict(plan))


def planned(context: StudyContext, choice: Mapping[str, Any]) -> tuple[EvidenceConfig, SamplePlan | None]:
    """The settings of the measurement, with as many more questions and samples as the rates on selection questions ask for, by the usual
    thresholds.
    """
    config, rates = context.config.verdict, choice.get("selection_rates")
    if not rates or not choice["persona_latents"]:
        return config, None
    counts, benign = choice["selection_answers"], len(context.config.benign)
    base, tuned = ((rates[name] * counts[name] + 0.5) / (counts[name] + 1) for name in ("base", "tuned"))  # no rate is 0 or 1 for sure
    budget = max(config.budget, answers_of(config, config.questions, config.samples, benign))
    # with the usual thresholds, so that others decide again on the same answers
    rules = VerdictThresholds(power=context.config.rules.power)
    adds = bool(choice["steering_latents"])
    plan = plan_samples(base, tuned, context.questions.most_held_out, budget, config, rules, benign=benign, adds=adds)
    return config.model_copy(update={"questions": plan.questions, "samples": plan.samples}), plan


def sinks_of(model: LanguageModel, questions: Sequence[Question]) -> list[tuple[Question, tuple[int, ...]]]:
    """Each question, and the positions of attention sinks in its prompt."""
    prompts = [tuple(chat.ids[:-1]) for chat in model.tokenise([question.chat() for question in questions])]
    return list(zip(questions, model.sinks(prompts), strict=True))


def make_claim(
    context: StudyContext, choice: Mapping[str, Any], config: EvidenceConfig, tuned: LanguageModel | None = None
) -> tuple[Trial, Claim, dict[str, float]]:
    """The chosen latents as a claim, what it is tried on (the study's tuned model, or another one), and how active its controls are.

    Activity is the mean activation of activation-matched latents over that of the claimed: by `removed`, `added`; 1 is a match.
    """
    directions = context.load(DIRECTIONS)
    persona, added, dose = choice["persona_latents"], choice["steering_latents"], choice["steering_dose"]
    own_way = choice.get("mean_difference_removal")
    removal = Removal(**(choice["removal"] or own_way or {"kind": "project_out"}))
    models = {"base": context.base, "tuned": context.tuned if tuned is None else tuned}
    questions = context.questions.split("held_out", config.questions)

    def ask(model: str, conditions: Sequence[Condition], seed: int) -> pd.DataFrame:
        folder = context.unfinished and context.unfinished / model
        return context.ask(f"verdict: {model} model", models[model], conditions, questions, seed, folder=folder)

    places = directions.places

    def remove(target: Target, label: str, way: Removal = removal) -> Edit:
        return places.remove(target, way, label)

    add = (lambda row, label: directions.steering(row, dose, label)) if added else None
    seed = stream_seed(context.config.seed, "verdict")
    trial = Trial(questions, ask, seed, remove, add, directions.ordinary_differences)
    difference = directions.mean_difference
    if not persona:
        alone = arm(OWN_REMOVAL, "tuned", "reference", remove(difference, "mean difference"), title=f"mean difference, {removal}")
        return trial, Claim(difference, None, references=[alone], of_latents=False), {}
    dictionary, table = context.dictionary, context.load(DIFF).latents
    removed = latent_target(dictionary, table, persona)
    norm = float(removed.rise.norm())
    # The streams keep the controls' first name, so that a seed draws what it always drew.
    matched = activation_matched(table, persona, config.active_draws, stream_seed(seed, "equally_active_ablation"), excluded=added)
    additions = (
        []
        if not added
        else activation_matched(table, added, config.active_draws, stream_seed(seed, "equally_active_steering"), excluded=persona)
    )
    active = Control(
        "activation_matched",
        "activation-matched latents",
        [latent_target(dictionary, table, draw).scaled(norm) for draw in matched],
        [latent_direction(dictionary, table, draw) for draw in additions],
    )
    controls = [active]
    if context.config.benign:
        benign = [target.scaled(norm) for target in context.load(BENIGN).targets(context.hook_point, context.window)]
        words = "differences of benign fine-tunes"
        controls.append(Control("benign_difference", words, benign, [target.rise for target in benign], len(benign)))
    vector = directions.named["persona_vector"]
    named = [
        Control("persona_vector", "persona vector", [Target(vector[None], vector).scaled(norm)], [vector], 1, "reference"),
        Control("mean_difference", "mean difference", [difference], [difference.rise], 1, "reference"),
    ]
    n_directions = len(persona) if removal.kind == "project_span" else 1  # all others take the one direction of the rise
    principal = principal_target(load_diff(context.load(DIFF).moments)[0], n_directions, difference.rise)
    if principal is not None:
        n_principal = len(principal.directions)  # no more than questions
        words = f"{n_principal} principal directions" if n_principal > 1 else "principal direction"
        named.append(Control("principal_directions", words, [principal], [principal.rise], 1, "reference"))

    def beside(name: str, edit: Edit, title: str, asked: tuple[str, ...] | None = None) -> Condition:
        return arm(name, "tuned", "reference", edit, title=title, asked=asked)

    references = [
        beside(f"ablated_by_{way.kind}", remove(removed, "removed", way), f"latents, {way}")
        for way in _other_ways(context, removal, len(persona))
    ]
    if own_way is not None and Removal(**own_way) != removal:
        way = Removal(**own_way)
        references.append(beside(OWN_REMOVAL, remove(difference, "mean difference", way), f"mean difference, {way}"))
    if with_sinks := tuple(question.id for question, sinks in sinks_of(models["tuned"], questions) if sinks):
        ablation = remove(removed, "removed")
        references += [
            beside("ablated_with_sinks", ablation.at_sinks("edit"), "latents removed at sinks too"),
            beside("ablated_sinks_only", ablation.at_sinks("only"), "latents removed at sinks only", with_sinks),
        ]
    direction = latent_direction(dictionary, table, added) if added else None
    claim = Claim(removed, direction, [*controls, *named], n_directions, references)
    activity = {"removed": relative_activity(table, persona, matched)}
    if additions:
        activity["added"] = relative_activity(table, added, additions)
    return trial, claim, activity


def _other_ways(context: StudyContext, chosen: Removal, n: int) -> list[Removal]:
    """A removal of each kind that was not chosen, at the middle strength; the span only of a few latents."""
    screen = context.config.screen
    middle = [strengths[len(strengths) // 2] for strengths in (screen.subtracted, screen.subtracted_over_window)]
    ways = removals([middle[0]], [middle[1]])
    alike = {"project_out", "project_span"} if n == 1 else {chosen.kind}  # of one latent both projections are the same
    hidden = alike if chosen.kind in alike else {chosen.kind, "project_span"}
    return [way for way in ways if way.kind not in hidden and (way.kind != "project_span" or n <= LARGEST_SPAN)]


def _warn_of_unequal_controls(activity: Mapping[str, float]) -> None:
    for name, ratio in activity.items():
        if not MATCHED_RATIO[0] <= ratio <= MATCHED_RATIO[1]:
            warnings.warn(
                "The claimed latents never fire on either model's answers, so no control can match their activation."
                if math.isnan(ratio)
                else f"Activation-matched latents that are {name} have {ratio:.2g} times the activation of the claimed: none come nearer. "
                "They show what other latents do, not what latents of that activity would do.",
                EditWarning,
                stacklevel=3,
            )


def _side_effects(context: StudyContext, edits: Mapping[str, Edit]) -> pd.DataFrame:
    if not edits:
        return pd.DataFrame()
    chats = evenly_spaced(context.corpus, ORDINARY_CHATS)
    read = [("base_ablated", context.base, "ablated"), ("ablated", context.tuned, "ablated"), ("steered", context.base, "steered")]
    read = [(name, model, edit) for name, model, edit in read if edit in edits]
    with context.progress("side effects", len(chats) * len(read)) as advance:
        rows = [{"condition": name, **asdict(side_effects(model, [edits[edit]], chats, progress=advance))} for name, model, edit in read]
    return pd.DataFrame(rows)


EVIDENCE = Step(
    "evidence",
    Evidence,
    make_evidence,
    inputs=(*MODELS, "dictionary", "questions", "panel", "corpus", "diff", "directions", "screen", "hook_point", "window"),
    settings=(
        "seed",
        "sampling",
        "verdict",
        "screen.subtracted",
        "screen.subtracted_over_window",
        "rules.power",
        "benign",
    ),
)
EVIDENCE_BESIDE_BENIGN = replace(EVIDENCE, inputs=(*EVIDENCE.inputs, BENIGN.name))
