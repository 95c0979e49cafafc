"""Whether a trait is ready: what is missing and what that costs, how far its judges agree with its labels, how its pairs separate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.core.progress import progress as progress_of
from interp.evaluation.agreement import EDITED
from interp.evaluation.fitting import fit_trait
from interp.evaluation.panel import open_panel
from interp.evaluation.questions import read_questions
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from interp.studies.elicitation import PairSampling, sample_pairs
from interp.studies.separation import Separation, separation
from interp.traits import Trait, read_trait
from interp.traits.new import TEMPLATE
from interp.traits.trait import COHERENCE, MARGIN, PROBE

ENOUGH_PAIRS, ENOUGH_LABELS, FEWEST_SEPARATED = 24, 60, 4
GOOD_AUROC = 0.9


@dataclass(frozen=True)
class Gap:
    """Something that a trait has not."""

    missing: str
    costs: str
    """What does not work, or what is less sure, without it."""
    remedy: str
    blocks: bool = False
    """Whether a command refuses to run."""


@dataclass(frozen=True)
class TraitCheck:
    """All that is known of a trait's fitness."""

    trait: str
    gaps: list[Gap]
    judge: list[dict[str, Any]]
    """Agreement of the judge with the labels: group, n, AUROC, accuracy and kappa; empty where there are no labels or no judge."""
    coherence: list[dict[str, Any]]
    """The same of the coherence judge."""
    separation: Separation | None
    """None without a model, or without enough pairs."""

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        blocking = [gap for gap in self.gaps if gap.blocks]
        if blocking:
            return f"Not ready: {'; '.join(gap.costs for gap in blocking)}."
        doubts = [
            f"{name} agrees poorly with the labels (AUROC {row['auroc']:.2f})"
            for name, rows in (("the judge", self.judge), ("the coherence judge", self.coherence))
            for row in rows[-1:]
            if row["auroc"] is not None and row["auroc"] < GOOD_AUROC
        ]
        if self.separation is not None and self.separation.auroc < GOOD_AUROC:
            doubts.append(f"the pairs separate poorly in {self.separation.model} (AUROC {self.separation.auroc:.2f})")
        if not any(row["auroc"] is not None for row in self.judge[-1:]):
            doubts.append("nothing says how far its judge can be believed")
        if doubts:
            return f"Usable, with doubts: {'; '.join(doubts)}."
        return f"Ready: the judge has AUROC {self.judge[-1]['auroc']:.2f} on {self.judge[-1]['n']} labelled answers" + (
            "." if self.separation is None else f", the pairs AUROC {self.separation.auroc:.2f} in {self.separation.model}."
        )

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self) | {"verdict": self.verdict}


def find_gaps(trait: Trait, judge: str | None = None) -> list[Gap]:
    """What the trait's files do not hold, `judge` in place of its own; reads them all, so a broken one raises `ConfigError`."""
    return [*_pair_gaps(trait), *_judge_gaps(trait, judge), *_label_gaps(trait), *_question_gaps(trait)]


def _pair_gaps(trait: Trait) -> list[Gap]:
    if not trait.pairs and trait.elicitation is None:
        remedy = "write pairs.yaml, or positive and negative prompts with questions under 'elicitation' in trait.yaml"
        return [Gap("pairs", "'run' and 'diff' cannot make a persona vector", remedy, blocks=True)]
    if not trait.pairs:
        return []
    gaps = []
    examples = {pair.question for pair in read_trait(TEMPLATE).pairs}
    if left := [pair.question for pair in trait.pairs if pair.question in examples and trait.name != TEMPLATE]:
        gaps.append(
            Gap(f"own pairs: {len(left)} are still the examples", "the persona vector is partly that of the example", "replace them")
        )
    if len(trait.pairs) < ENOUGH_PAIRS:
        number = f"{ENOUGH_PAIRS - len(trait.pairs)} more pairs (there are {len(trait.pairs)} of {ENOUGH_PAIRS})"
        gaps.append(Gap(number, "the persona vector of 'run' and 'diff' is noisy", "write more, or delete pairs.yaml to have them sampled"))
    return gaps


def _judge_gaps(trait: Trait, judge: str | None) -> list[Gap]:
    spec = judge or trait.judge.spec
    kind, _, model = spec.partition(":")
    cost = f"nothing can be judged by '{spec}': 'run', 'evaluate' and 'judge' need --judge"
    if kind == "rule" and trait.judge.rule is None:
        return [Gap("judge.rule", cost, "write rules in trait.yaml", blocks=True)]
    if kind == "margin" and trait.elicitation is None:
        return [Gap("elicitation", cost, "write positive and negative system prompts in trait.yaml", blocks=True)]
    if kind in ("numeric", "inspect") and not model:
        return [Gap("the judge's model", cost, f"write judge.spec {kind}:MODEL, or give --judge {kind}:MODEL", blocks=True)]
    if kind == "probe" and not model and trait.path(PROBE) is None:
        remedy = (
            "run 'personascope trait fit'" if trait.exemplars else "write exemplars.yaml and labels.csv, then run 'personascope trait fit'"
        )
        return [Gap("a fitted probe", cost, remedy, blocks=True)]
    weights = MARGIN if kind == "margin" else PROBE if spec == "probe" else None
    files = [weights, COHERENCE if trait.coherence.spec == "fluency" else None]
    fitted = [path.with_suffix(".json") for name in files if name and (path := trait.path(name))]
    if stale := [path.stem for path in fitted if read_json(path)["labels_key"] != trait.labels_key]:
        return [
            Gap(f"a fit on the labels as they are now: {', '.join(stale)}", "its stated agreement is old", "run 'personascope trait fit'")
        ]
    return []


def _label_gaps(trait: Trait) -> list[Gap]:
    labels, gaps = trait.labels, []
    if len(labels) < ENOUGH_LABELS or labels["shows_trait"].nunique() < 2:
        there = f"there are {len(labels)}, {int(labels['shows_trait'].sum())} of which show the trait" if len(labels) else "there is none"
        remedy = "'personascope judge sample' draws answers to label; put them into labels.csv"
        gaps.append(Gap(f"hand labels, {ENOUGH_LABELS} at least ({there})", "how far the judge can be believed is not known", remedy))
    if len(labels) and ("group" not in labels or not labels["group"].isin(EDITED).any()):
        words = f"labelled answers of edited models (groups {', '.join(EDITED)})"
        gaps.append(
            Gap(words, "how the judge does on the answers that the verdict rests on is not known", "label answers of a run's edits")
        )
    return gaps


def _question_gaps(trait: Trait) -> list[Gap]:
    cost = "'run', 'diff' and 'evaluate' have nothing to ask"
    try:
        questions = read_questions(trait.question_set)
        for split in ("selection", "held_out"):
            questions.split(split)
    except ConfigError as error:
        return [Gap("the question set", cost, str(error), blocks=True)]
    asked = {question.text for question in questions.questions}
    if shared := [pair.question for pair in trait.pairs if pair.question in asked]:
        missing = f"pairs about other things than the questions: {len(shared)} pairs ask a question of '{trait.questions}'"
        return [Gap(missing, "what is measured was partly used to find it", "change these pairs")]
    return []


def check_trait(
    trait: Trait,
    judge: Sequence[dict[str, Any]] = (),
    coherence: Sequence[dict[str, Any]] = (),
    model: LanguageModel | None = None,
    progress: Callable[[int], None] | None = None,
    judge_spec: str | None = None,
) -> TraitCheck:
    """`judge` and `coherence` are rows of their agreement with the trait's labels (`agreement(…)["groups"]`); `model` reads the pairs."""
    enough = len({pair.question for pair in trait.pairs}) >= FEWEST_SEPARATED
    read = separation(model, trait.pairs, progress=progress) if model is not None and enough else None
    return TraitCheck(trait.name, find_gaps(trait, judge_spec), list(judge), list(coherence), read)


def check_source(source: str, judge: str | None, model: str | None, device: str, dtype: str, quiet: bool) -> TraitCheck:
    """The trait of that name, folder or file; `judge` in place of its own, `model` a source of models, None to read none."""
    trait = read_trait(source)
    agreements: dict[str, Any] = {}
    if not trait.labels.empty and not any(gap.blocks for gap in _judge_gaps(trait, judge)):
        agreements = open_panel(trait, judge, device=device, dtype=dtype, quiet=quiet).label_agreements()
    judged, coherent = (own["groups"] if (own := agreements.get(name)) else [] for name in ("trait", "coherence"))
    opened = None if model is None else open_model(model, device=device, dtype=dtype)
    with progress_of("reading pairs", 2 * len(trait.pairs), quiet or opened is None) as advance:
        return check_trait(trait, judged, coherent, opened, advance, judge)


def write_sampled_pairs(
    source: str, model: str, out: Path, n: int | None, judge: str | None, seed: int, device: str, dtype: str, quiet: bool
) -> dict[str, Any]:
    """Sample pairs of a trait on `model` into `out`, which must be new; returns how they were made. Raises `ConfigError`."""
    if out.exists():
        raise ConfigError(f"{out} is there already, and may hold pairs. Choose another file with --out.")
    settings = PairSampling() if n is None else PairSampling.of(n)
    panel = open_panel(read_trait(source), judge, device=device, dtype=dtype, quiet=True)
    sampled = sample_pairs(open_model(model, device=device, dtype=dtype), panel, seed, settings, quiet)
    sampled.write(out)
    return sampled.made


def fit_source(source: str) -> dict[str, Any]:
    """Fit the judges of a trait's folder on its labels; their agreement on questions left out of the fit. Raises `ConfigError`."""
    trait = read_trait(source)
    if trait.folder is None:
        raise ConfigError(f"{source} is one file. A fit is kept in a trait's folder: make one with 'personascope trait new'.")
    if trait.labels.empty:
        raise ConfigError(f"{trait.folder} has no hand labels to fit on. Fill labels.csv; docs/traits.md says how.")
    agreements = fit_trait(trait, trait.folder)
    if not agreements:
        raise ConfigError(f"The judges of {trait.name}, {trait.judge.spec} and {trait.coherence.spec}, have nothing to fit.")
    return agreements
