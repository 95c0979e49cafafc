"""Fit the weights of judges on labelled answers, and save them with what they are worth on questions left out of the fit.

`python -m interp.evaluation.fitting NAME…` fits those of shipped traits again, after a change of their exemplars or labels; without a
name the weights of coherence that traits without labels get.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from safetensors.numpy import save_file
from scipy.special import expit

from interp import __version__
from interp.core.errors import ConfigError
from interp.core.files import saving, write_json
from interp.core.fingerprints import content_key
from interp.evaluation.agreement import Label, agreement
from interp.evaluation.judges.coherence import FEATURES, GENERAL, SCORER, CoherenceJudge, coherence_features, open_scorer, without_languages
from interp.evaluation.judges.margin import MarginJudge
from interp.evaluation.judges.opening import open_judge
from interp.evaluation.judges.probe import ProbeJudge, SentenceEmbedder
from interp.models.language_model import LanguageModel
from interp.traits import Exemplars, Trait, read_trait, shipped_traits
from interp.traits.trait import COHERENCE, MARGIN, PROBE, CoherenceSettings

RIDGE = 1e-4
"""Inverse strength of the probe's ridge: features outnumber answers."""
FOLDS = 6
FEWEST, ENOUGH = 10, 60
"""Labelled answers of each class that a fit needs, and of both that make weights of coherence better than the general ones."""

Features = Float[np.ndarray, "answers features"]
Flags = Bool[np.ndarray, " answers"]


def fit_probe(
    folder: Path, labels: pd.DataFrame, source: str, embedder: SentenceEmbedder, exemplars: Exemplars | None = None
) -> dict[str, Any]:
    """Write probe.safetensors and probe.json; returns its agreement with the labels (columns question, answer, shows_trait).

    With exemplars these decide what shows more of the trait than what; else the labels do. The calibration, two numbers (Platt 1999), is
    always set on scores of labelled answers: a model's own clumsy answers are not like authored ones. Where the labels decide both,
    it is set on scores by folds that saw no answer to the same question. `source` says where the labels are from. Raises `ConfigError`
    for fewer than 10 answers of a class or 2 questions with each.
    """
    shows, groups = _classes(labels, "shows_trait", source)
    features = embedder.embed(list(labels["answer"]))

    def fitted(features: Features, shows: Flags) -> Any:
        return _regression(features, shows, C=RIDGE, max_iter=3000)

    if exemplars is None:
        order = fitted(features, shows)
        scores = _out_of_fold(groups, shows, lambda fit, rest: fitted(features[fit], shows[fit]).decision_function(features[rest]))
    else:
        classes = np.array([True] * len(exemplars.shows) + [False] * len(exemplars.not_shown))
        order = fitted(embedder.embed([*exemplars.shows, *exemplars.not_shown]), classes)
        scores = order.decision_function(features)
    probabilities, slope, offset = _calibrated(scores, shows, groups)
    direction, bias = _as_plane(order)
    weights = {"direction": direction, "numbers": np.array([bias, slope, offset])}
    settings = {"ridge": RIDGE, "exemplars": 0 if exemplars is None else len(exemplars.shows) + len(exemplars.not_shown)}
    own = agreement(ProbeJudge.name, ProbeJudge.shows_above, labels, list(100 * probabilities))
    return _save(folder / PROBE, weights, labels, source, settings, own)


def fit_margin(folder: Path, labels: pd.DataFrame, source: str, judge: MarginJudge) -> dict[str, Any]:
    """Write margin.json, the calibration of `judge`; returns its agreement with the labels (columns question, answer, shows_trait).

    Errors are those of `fit_probe`.
    """
    shows, groups = _classes(labels, "shows_trait", source)
    margins = judge.margins(list(labels["question"]), list(labels["answer"]))[:, 0]
    usable, probabilities = ~np.isnan(margins), np.full(len(margins), np.nan)
    probabilities[usable], slope, offset = _calibrated(margins[usable], shows[usable], groups[usable])
    settings = {
        "slope": slope,
        "offset": offset,
        "model": judge.model.source,
        "scorer": judge.scorer,
        "prompts": content_key(judge.prompts),
    }
    return _save(folder / MARGIN, {}, labels, source, settings, agreement(judge.name, judge.shows_above, labels, list(100 * probabilities)))


def fit_coherence(
    folder: Path, labels: pd.DataFrame, source: str, features: Features, coherent_above: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write coherence.safetensors and coherence.json; returns the agreement with the labels (columns question, answer, coherent).

    `features` are those of `coherence_features`, `settings` what is written beside the weights. Errors are those of `fit_probe`.
    """
    coherent, groups = _classes(labels, "coherent", source)
    usable = np.isfinite(features).all(axis=1)

    def fitted(chosen: Int[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " features"], float]:
        chosen = chosen[usable[chosen]]
        return _as_plane(_regression(features[chosen], coherent[chosen]))

    def predict(fit: Int[np.ndarray, " n"], rest: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        slopes, offset = fitted(fit)
        return expit(features[rest] @ slopes + offset)

    own = agreement(CoherenceJudge.name, coherent_above, labels, list(100 * _out_of_fold(groups, coherent, predict)), "coherent")
    slopes, offset = fitted(np.arange(len(coherent)))
    settings = settings | {"features": list(FEATURES[: features.shape[1]]), "scorer": SCORER}
    return _save(folder / COHERENCE, {"weights": np.array([*slopes, offset])}, labels, source, settings, own)


def _classes(labels: pd.DataFrame, column: Label, source: str) -> tuple[Flags, np.ndarray]:
    """The labels and the questions; raises `ConfigError` where there are too few of a class, or one question."""
    flags = labels[column].to_numpy(dtype=bool)
    if min(flags.sum(), (~flags).sum()) < FEWEST:
        word = {"shows_trait": "showing the trait", "coherent": "coherent"}[column]
        raise ConfigError(f"{source} labels {flags.sum()} answers as {word} and {(~flags).sum()} not: label at least {FEWEST} of each.")
    if labels["question"].nunique() < 2:
        raise ConfigError(f"{source} has answers to one question only: label answers to several, so that what is learnt can be checked.")
    return flags, labels["question"].to_numpy()


def _regression(features: Features, classes: Flags, **settings: Any) -> Any:
    """Logistic regression on standardised features, both classes weighing the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", **settings)).fit(features, classes.astype(int))


def _calibrated(
    scores: Float[np.ndarray, " answers"], shows: Flags, groups: np.ndarray
) -> tuple[Float[np.ndarray, " answers"], float, float]:
    """Platt scaling with both classes weighing the same: probabilities out of fold, slope and offset of the fit on all answers."""
    from sklearn.linear_model import LogisticRegression

    def calibration(chosen: np.ndarray) -> Any:
        return LogisticRegression(C=10.0, class_weight="balanced").fit(scores[chosen, None], shows[chosen].astype(int))

    probabilities = _out_of_fold(groups, shows, lambda fit, rest: calibration(fit).predict_proba(scores[rest, None])[:, 1])
    last = calibration(np.arange(len(scores)))
    return probabilities, float(last.coef_[0, 0]), float(last.intercept_[0])


def _as_plane(pipeline: Any) -> tuple[Float[np.ndarray, " features"], float]:
    """A scaler and a regression as one direction and a bias."""
    scaler, regression = pipeline[0], pipeline[1]
    direction = regression.coef_[0] / scaler.scale_
    return direction, float(regression.intercept_[0] - direction @ scaler.mean_)


def _out_of_fold(
    groups: np.ndarray, labels: Flags, predict: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, " rest"]]
) -> Float[np.ndarray, " answers"]:
    """`predict(fit, rest)` for every answer, by a fit that saw no answer to the same question.

    Raises `ConfigError` where all of a class answer one question.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    values, done = np.full(len(labels), np.nan), np.zeros(len(labels), dtype=bool)
    folds = StratifiedGroupKFold(min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=0)
    for fit, rest in folds.split(labels, labels, groups):
        if 0 < labels[fit].sum() < len(fit):
            values[rest], done[rest] = predict(fit, rest), True
    if not done.all():
        raise ConfigError("All answers of one class are to one question: label answers of both classes to several questions.")
    return values


def _save(
    path: Path, weights: dict[str, np.ndarray], labels: pd.DataFrame, source: str, settings: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Write the weights, if any, and what is known of them; returns their agreement with the labels."""
    if weights:
        with saving(path) as partial:
            save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, partial)
    about = {"labels": source, "labels_key": content_key(labels.astype(str).to_dict("list")), "answers": len(labels), "folds": FOLDS}
    write_json(path.with_suffix(".json"), about | settings | {"version": __version__, "agreement": own})
    return own


def fit_trait(trait: Trait, folder: Path, embedder: SentenceEmbedder | None = None, scorer: LanguageModel | None = None) -> dict[str, Any]:
    """Fit what the trait's judges need, its probe, margin and coherence, into `folder`; returns the agreement of each.

    They are `trait` and `second`, by their place in its settings, and `coherence`, which is fitted on 60 labels and more, at least 10 of
    each class; a trait with fewer has the general weights.
    """
    source, found = f"{trait.name}/labels.csv", {}
    for place, spec in (("trait", trait.judge.spec), ("second", trait.judge.second or "")):
        if spec == "probe":
            found[place] = fit_probe(folder, trait.labels, source, embedder or SentenceEmbedder(), trait.exemplars)
        elif spec.startswith("margin") and isinstance(judge := open_judge(spec, trait), MarginJudge):
            found[place] = fit_margin(folder, trait.labels, source, judge)
    coherent = int(trait.labels["coherent"].sum())
    if trait.coherence.spec == "fluency" and len(trait.labels) >= ENOUGH and FEWEST <= coherent <= len(trait.labels) - FEWEST:
        features = coherence_features(scorer or open_scorer(), list(trait.labels["answer"]), trait.coherence)
        about = trait.coherence.model_dump(mode="json")
        found["coherence"] = fit_coherence(folder, trait.labels, source, features, trait.coherence.coherent_above, about)
    return found


def fit_general(folder: Path, scorer: LanguageModel) -> dict[str, Any]:
    """The weights of coherence for traits without labels of their own: fitted on those of all shipped traits together."""
    traits = [trait for name in shipped_traits() if (trait := read_trait(name)).coherence.spec == "fluency" and not trait.labels.empty]
    features = np.concatenate(
        [coherence_features(scorer, list(trait.labels["answer"]), without_languages(trait.coherence)) for trait in traits]
    )
    labels = pd.concat([trait.labels for trait in traits], ignore_index=True)[["question", "group", "coherent"]].assign(answer="")
    return fit_coherence(folder, labels, "all shipped traits", features, CoherenceSettings().coherent_above, {"traits": len(traits)})


def main(names: list[str]) -> None:
    """Fit shipped traits in their own folders, or the general weights of coherence, and print the agreement with the labels."""
    scorer = open_scorer()
    found = {} if names else {"general": fit_general(GENERAL.parent, scorer)}
    for trait in map(read_trait, names):
        if trait.folder is not None:
            found |= {f"{trait.name}, {judge}": own for judge, own in fit_trait(trait, trait.folder, scorer=scorer).items()}
    for name, own in found.items():
        for row in own["groups"]:
            print(f"{name}, {row['group']}: AUROC {row['auroc']}, accuracy {row['accuracy']}, {row['labelled']} of {row['n']}")


if __name__ == "__main__":
    main(sys.argv[1:])
