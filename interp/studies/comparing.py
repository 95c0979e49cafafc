"""Compare what was judged before: evaluations, or tables of scored answers as they are published; the same model in several is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.evaluation.rates import Thresholds
from interp.studies.evaluation import Evaluation, Judged, Words, summarised
from interp.studies.evaluation_config import CompareConfig
from interp.studies.gold import GoldLabels
from interp.studies.scored_tables import Source, read_source

PUBLISHED_WORDS = Words("the published tables' own", "misaligned", "aligned")


def compare(config: CompareConfig) -> Evaluation:
    """Rates and differences of all models of all sources; answers of one model from several seeds are pooled, question by question.

    Raises `ConfigError` for a source that cannot be read or is named twice, sources that were judged in different ways, a model that was
    sampled in different ways, and answers that are there twice.
    """
    gold = None if config.labels is None else GoldLabels.read(config.labels)
    paths = [Path(source).resolve() for source in config.sources]
    if repeated := next((source for source, path in zip(config.sources, paths, strict=True) if paths.count(path) > 1), None):
        raise ConfigError(f"{repeated} is named twice, and would count twice. Name each source once.")
    sources = _named_apart([read_source(Path(source)) for source in config.sources])
    judge = _judge(sources, config)
    _check_sampling(sources)
    answers = pd.concat([source.answers for source in sources], ignore_index=True)
    _check_once(answers)
    models = list(answers["model"].unique())
    if config.against is not None:
        if config.against not in models:
            raise ConfigError(f"No answers are by '{config.against}'. The models are: {', '.join(models)}.")
        first = answers["model"] == config.against
        answers = pd.concat([answers[first], answers[~first]], ignore_index=True)
    measures = pd.DataFrame([row for source in sources for row in source.measures])
    return summarised(config, {}, answers, measures.drop_duplicates(), judge, gold)


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """Tables of one name in different folders are different models: those are called by their path."""
    stems = [source.path.stem for source in sources if source.judge is None]
    return [
        Source(source.path, source.answers.assign(model=str(source.path)))
        if source.judge is None and stems.count(source.path.stem) > 1 and set(source.answers["model"]) == {source.path.stem}
        else source
        for source in sources
    ]


def _judge(sources: Sequence[Source], config: CompareConfig) -> Judged:
    """Who judged, and the thresholds. Raises `ConfigError` where that differs and the thresholds are not given."""
    known = [source.judge for source in sources if source.judge is not None]
    ways = {(judge["spec"], *judge["identity"], judge["shows_above"], judge["coherent_above"]) for judge in known}
    given = config.shows_above is not None and config.coherent_above is not None
    if len({way[:-2] for way in ways}) > 1 or (len(ways) > 1 and not given):
        raise ConfigError("These evaluations were judged in different ways. Evaluate them again with one --judge; answers are kept.")
    if ways and len(known) < len(sources) and not given:
        raise ConfigError("Evaluations and tables of scores have different thresholds. Give --shows-above and --coherent-above for all.")
    published = {"spec": "scores of the table", "identity": [], **asdict(Thresholds()), "words": asdict(PUBLISHED_WORDS)}
    first: dict[str, Any] = known[0] if known else published
    thresholds = Thresholds(
        first["shows_above"] if config.shows_above is None else config.shows_above,
        first["coherent_above"] if config.coherent_above is None else config.coherent_above,
        config.open_counts,
    )
    same = len(known) == len(sources) and thresholds.shows_above == first["shows_above"]
    agreement = next((source.agreement for source in sources if source.judge is not None), []) if same else []
    return Judged(first["spec"], first["identity"], thresholds, Words(**first["words"]), agreement)


def _check_sampling(sources: Sequence[Source]) -> None:
    """Raise `ConfigError` where one model's answers were sampled in different ways: pooled, they are those of no model."""
    seen: dict[str, dict[str, object]] = {}
    for source in sources:
        own = {name: value for name, value in (source.sampling or {}).items() if name != "batch_rows"}
        for model in source.answers["model"].unique():
            if seen.setdefault(model, own) != own:
                raise ConfigError(
                    f"The answers of {model} were sampled in different ways, and cannot be pooled. Compare one way at a time."
                )


def _check_once(answers: pd.DataFrame) -> None:
    """Raise `ConfigError` where an answer of an evaluation is there twice: it would count twice."""
    if "id" not in answers:
        return
    known = answers[answers["id"].notna() & (answers["id"] != "")]
    twice = known[known.duplicated("id")]
    if len(twice):
        raise ConfigError(
            f"{len(twice)} answers of {twice['model'].iloc[0]} are there twice: one seed in two sources. Evaluate with another --seed."
        )
