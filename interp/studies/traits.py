"""Whether a trait is ready: what is missing and what that costs, how far its judges agree with its labels, how its pairs separate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.core.errors import ActivationError, ConfigError
from interp.core.files import read_json
from interp.core.progress import progress as progress_of
from interp.core.streams import stream_seed
from interp.evaluation.agreement import EDITED
from interp.evaluation.fitting import fit_trait
from interp.evaluation.panel import open_panel
from interp.evaluation.questions import read_questions
from interp.models.activations import capture, response_phase
from interp.models.chats import Chat
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from interp.studies.elicitation import PairSampling, sample_pairs
from interp.traits import Pair, Trait, read_trait
from interp.traits.new import TEMPLATE
from interp.traits.trait import COHERENCE, MARGIN, PROBE

SPLITS = 50


@dataclass(frozen=True)
class Separation:
    """What the mean difference of some pairs says of pairs that it was not made of."""

    model: str
    hook_point: str
    pairs: int
    auroc: float
    """Of answers that show the trait over those that do not, by projection on the mean difference of the pairs of other questions."""
    paired: float
    """Share of pairs whose answer that shows the trait has the larger projection."""
    cosine_of_halves: float
    """Cosine of the mean differences of two halves of the questions, mean of random splits: near 1, more pairs would change little."""


def separation(
    model: LanguageModel,
    pairs: Sequence[Pair],
    hook_point: str | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Separation:
    """At `hook_point` (default: after the middle block), on mean residuals over each answer's tokens.

    Raises `ConfigError` for pairs of fewer than four questions.
    """
    from sklearn.metrics import roc_auc_score

    questions = np.unique([pair.question for pair in pairs], return_inverse=True)[1]
    n_questions = len(set(questions.tolist()))
    if n_questions < 4:
        raise ConfigError(f"The pairs ask {n_questions} questions; to hold some out and compare halves it takes 4. Write more pairs.")
    name = str(model.hook_point(hook_point or resid_post(model.n_layers // 2)))
    chats = [Chat.ask(pair.question, pair.shows) for pair in pairs] + [Chat.ask(pair.question, pair.not_shown) for pair in pairs]
    means = _mean_residuals(model, chats, name, progress)
    shows, not_shown = means[: len(pairs)], means[len(pairs) :]
    difference = shows - not_shown
    projections = np.zeros((2, len(pairs)))
    for question in range(n_questions):
        own = questions == question
        direction = _unit(difference[~own].mean(0))
        projections[:, own] = shows[own] @ direction, not_shown[own] @ direction
    generator, cosines = np.random.default_rng(stream_seed(seed, "separation")), []
    for _ in range(SPLITS):
        half = np.isin(questions, generator.permutation(n_questions)[: n_questions // 2])
        cosines.append(_unit(difference[half].mean(0)) @ _unit(difference[~half].mean(0)))
    auroc = float(roc_auc_score(np.repeat([1, 0], len(pairs)), projections.ravel()))
    paired = float((projections[0] > projections[1]).mean())
    return Separation(model.source, name, len(pairs), auroc, paired, float(np.mean(cosines)))


def _mean_residuals(
    model: LanguageModel, chats: Sequence[Chat], hook_point: str, progress: Callable[[int], None] | None
) -> Float[np.ndarray, "chats d_model"]:
    """Mean residual of each chat over its response phase."""
    result = torch.zeros(len(chats), model.d_model, dtype=torch.float64)
    for captured in capture(model, chats, [hook_point], progress=progress):
        selected = captured.select(response_phase)
        if not bool(selected.any(1).all()):
            raise ActivationError("A pair has an answer without a token. Write both answers of every pair.")
        residual = captured.residuals[hook_point].double().masked_fill(~selected[..., None], 0.0)
        result[captured.rows] = (residual.sum(1) / selected.sum(1, keepdim=True)).cpu()
    return result.numpy()


def _unit(vector: Float[np.ndarray, " d_model"]) -> Float[np.ndarray, " d_model"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


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
        if blocking := [gap.costs for gap in self.gaps if gap.blocks]:
            return f"Not ready: {'; '.join(blocking)}."
        judges = {"the judge": self.judge, "the coherence judge": self.coherence}
        aurocs = {f"{name} agrees poorly with the labels": rows[-1]["auroc"] for name, rows in judges.items() if rows}
        if self.separation is not None:
            aurocs[f"the pairs separate poorly in {self.separation.model}"] = self.separation.auroc
        doubts = [f"{words} (AUROC {auroc:.2f})" for words, auroc in aurocs.items() if auroc is not None and auroc < GOOD_AUROC]
        if not self.judge or self.judge[-1]["auroc"] is None:
            doubts.append("nothing says how far its judge can be believed")
        if doubts:
            return f"Usable, with doubts: {'; '.join(doubts)}."
        pairs = "" if self.separation is None else f", the pairs AUROC {self.separation.auroc:.2f} in {self.separation.model}"
        return f"Ready: the judge has AUROC {self.judge[-1]['auroc']:.2f} on {self.judge[-1]['n']} labelled answers{pairs}."

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self) | {"verdict": self.verdict}


def find_gaps(trait: Trait, judge: str | None = None) -> list[Gap]:
    """What the trait's files do not hold, `judge` in place of its own; reads them all, so a broken one raises `ConfigError`."""
    return [*_pair_gaps(trait), *_judge_gaps(trait, judge), *_label_gaps(trait), *_question_gaps(trait)]


def _pair_gaps(trait: Trait) -> Iterator[Gap]:
    pairs = trait.pairs
    if not pairs:
        if trait.elicitation is None:
            remedy = "write pairs.yaml, or positive and negative prompts with questions under 'elicitation' in trait.yaml"
            yield Gap("pairs", "'run' and 'diff' cannot make a persona vector", remedy, blocks=True)
        return
    examples = {pair.question for pair in read_trait(TEMPLATE).pairs}
    left = sum(pair.question in examples for pair in pairs)
    if left and trait.name != TEMPLATE:
        yield Gap(f"own pairs: {left} are still the examples", "the persona vector is partly that of the example", "replace them")
    if len(pairs) < ENOUGH_PAIRS:
        number = f"{ENOUGH_PAIRS - len(pairs)} more pairs (there are {len(pairs)} of {ENOUGH_PAIRS})"
        yield Gap(number, "the persona vector of 'run' and 'diff' is noisy", "write more, or delete pairs.yaml to have them sampled")


def _judge_gaps(trait: Trait, judge: str | None) -> Iterator[Gap]:
    spec = judge or trait.judge.spec
    kind, _, model = spec.partition(":")
    fit = "run 'personascope trait fit'" if trait.exemplars else "write exemplars.yaml and labels.csv, then run 'personascope trait fit'"
    needs = (
        (kind == "rule" and trait.judge.rule is None, "judge.rule", "write rules in trait.yaml"),
        (kind == "margin" and trait.elicitation is None, "elicitation", "write positive and negative system prompts in trait.yaml"),
        (
            kind in ("numeric", "inspect") and not model,
            "the judge's model",
            f"write judge.spec {kind}:MODEL, or give --judge {kind}:MODEL",
        ),
        (spec == "probe" and trait.path(PROBE) is None, "a fitted probe", fit),
    )
    for lacking, missing, remedy in needs:
        if lacking:
            yield Gap(missing, f"nothing can be judged by '{spec}': 'run', 'evaluate' and 'judge' need --judge", remedy, blocks=True)
            return
    weights = (MARGIN if kind == "margin" else PROBE if spec == "probe" else None, COHERENCE if trait.coherence.spec == "fluency" else None)
    fitted = [path.with_suffix(".json") for name in weights if name and (path := trait.path(name))]
    if stale := [path.stem for path in fitted if read_json(path)["labels_key"] != trait.labels_key]:
        missing = f"a fit on the labels as they are now: {', '.join(stale)}"
        yield Gap(missing, "its stated agreement is old", "run 'personascope trait fit'")


def _label_gaps(trait: Trait) -> Iterator[Gap]:
    labels = trait.labels
    if len(labels) < ENOUGH_LABELS or labels["shows_trait"].nunique() < 2:
        there = f"there are {len(labels)}, {int(labels['shows_trait'].sum())} of which show the trait" if len(labels) else "there is none"
        remedy = "'personascope judge sample' draws answers to label; put them into labels.csv"
        yield Gap(f"hand labels, {ENOUGH_LABELS} at least ({there})", "how far the judge can be believed is not known", remedy)
    if len(labels) and ("group" not in labels or not labels["group"].isin(EDITED).any()):
        missing = f"labelled answers of edited models (groups {', '.join(EDITED)})"
        yield Gap(missing, "how the judge does on the answers that the verdict rests on is not known", "label answers of a run's edits")


def _question_gaps(trait: Trait) -> Iterator[Gap]:
    try:
        questions = read_questions(trait.question_set)
        for split in ("selection", "held_out"):
            questions.split(split)
    except ConfigError as error:
        yield Gap("the question set", "'run', 'diff' and 'evaluate' have nothing to ask", str(error), blocks=True)
        return
    asked = {question.text for question in questions.questions}
    if shared := sum(pair.question in asked for pair in trait.pairs):
        missing = f"pairs about other things than the questions: {shared} pairs ask a question of '{trait.questions}'"
        yield Gap(missing, "what is measured was partly used to find it", "change these pairs")


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
