"""Compare what was judged before: evaluations, or tables of scored answers as they are published; the same model in several is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.core.steps import EVALUATION_FILE
from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.hand_labels import read_table
from interp.evaluation.scored_tables import TEXTS, as_text, scored_answers
from interp.studies.evaluation import JUDGED_FILE, Evaluation, Judged, summarised
from interp.studies.evaluation_config import CompareConfig
from interp.studies.human_labels import HumanLabels

PUBLISHED_WORDS = {"trait": "the published tables' own", "shown": "misaligned", "not_shown": "aligned"}


def compare(config: CompareConfig) -> Evaluation:
    """Rates and differences of all models of all sources; answers of one model from several seeds are pooled, question by question.

    Raises `ConfigError` for a source that cannot be read or is named twice, sources that were judged in different ways, a model that was
    sampled in different ways, and answers that are there twice.
    """
    labels = None if config.labels is None else HumanLabels.read(config.labels)
    paths = [Path(source).resolve() for source in config.sources]
    if repeated := next((source for source, path in zip(config.sources, paths, strict=True) if paths.count(path) > 1), None):
        raise ConfigError(f"{repeated} is named twice, and would count twice. Name each source once.")
    sources = _named_apart([read_source(Path(source), config.score) for source in config.sources])
    if config.score is not None and all(source.judged for source in sources):
        raise ConfigError(f"No source is a table, so none has the column '{config.score}'. Leave --score out.")
    judged = _judged(sources, config)
    _check_sampling(sources)
    answers = pd.concat([source.answers for source in sources], ignore_index=True)
    _check_once(answers)
    if config.against is not None:
        first = answers["model"] == config.against
        if not first.any():
            raise ConfigError(f"No answers are by '{config.against}'. The models are: {', '.join(answers['model'].unique())}.")
        answers = pd.concat([answers[first], answers[~first]], ignore_index=True)
    measures = pd.DataFrame([row for source in sources for row in source.measures])
    return summarised(config, {}, answers, measures.drop_duplicates(), judged, labels)


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """Tables of one name in different folders are different models: those are called by their path."""
    stems = [source.path.stem for source in sources if source.judged is None]
    return [
        replace(source, answers=source.answers.assign(model=str(source.path)))
        if source.judged is None and stems.count(source.path.stem) > 1 and set(source.answers["model"]) == {source.path.stem}
        else source
        for source in sources
    ]


def _judged(sources: Sequence[Source], config: CompareConfig) -> Judged:
    """Who judged, and the thresholds. Raises `ConfigError` where that differs and the thresholds are not given."""
    known = [source.judged for source in sources if source.judged is not None]
    judges = {(judged.spec, *judged.identity) for judged in known}
    given = config.shows_above is not None and config.coherent_above is not None
    if len(judges) > 1 or (len({astuple(judged.thresholds)[:2] for judged in known}) > 1 and not given):
        raise ConfigError("These evaluations were judged in different ways. Evaluate them again with one --judge; answers are kept.")
    if 0 < len(known) < len(sources) and not given:
        raise ConfigError("Evaluations and tables of scores have different thresholds. Give --shows-above and --coherent-above for all.")
    first = known[0] if known else Judged("scores of the table", [], Thresholds(), PUBLISHED_WORDS, [])
    thresholds = Thresholds(
        first.thresholds.shows_above if config.shows_above is None else config.shows_above,
        first.thresholds.coherent_above if config.coherent_above is None else config.coherent_above,
        config.open_counts,
    )
    same = len(known) == len(sources) and thresholds.shows_above == first.thresholds.shows_above
    return replace(first, thresholds=thresholds, agreement=first.agreement if same else [])


def _check_sampling(sources: Sequence[Source]) -> None:
    """Raise `ConfigError` where one model's answers were sampled in different ways: pooled, they are those of no model."""
    seen: dict[str, dict[str, object]] = {}
    for source in sources:
        own = {name: value for name, value in (source.sampling or {}).items() if name != "batch_rows"}
        for model in source.answers["model"].unique():
            if seen.setdefault(model, own) != own:
                raise ConfigError(f"The answers of {model} were sampled in different ways. Compare one way at a time.")


def _check_once(answers: pd.DataFrame) -> None:
    """Raise `ConfigError` where an answer of an evaluation is there twice: it would count twice."""
    known = answers[answers["id"].fillna("") != ""] if "id" in answers else answers.iloc[:0].assign(id="")
    twice = known[known.duplicated("id")]
    if len(twice):
        raise ConfigError(
            f"{len(twice)} answers of {twice['model'].iloc[0]} are there twice: one seed in two sources. Evaluate with another --seed."
        )


@dataclass(frozen=True)
class Source:
    """Judged answers and what is known of how they were made."""

    path: Path
    answers: pd.DataFrame
    judged: Judged | None = None
    """None for a table, which does not say."""
    sampling: dict[str, Any] | None = None
    measures: list[dict[str, Any]] = field(default_factory=list)


def read_source(path: Path, score: str | None = None) -> Source:
    """A folder of 'personascope evaluate' or a table, whose scores of the trait are in the column `score`. Raises `ConfigError`."""
    if path.is_dir():
        return _evaluation(path)
    if not path.exists():
        raise ConfigError(f"There is no {path}. Give a folder of 'personascope evaluate', or a table of scored answers.")
    return Source(path, scored_answers(read_table(path), path, score))


def judged_answers(folder: Path) -> pd.DataFrame:
    """The answers of an evaluation. Raises `ConfigError` for a damaged file."""
    path = folder / JUDGED_FILE
    table = read_table(path)
    missing = [name for name in (*TEXTS, "trait_score", "coherence", "shows_trait", "coherent") if name not in table]
    if missing or table.empty:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "holds no answer"
        raise ConfigError(f"{path} {lacks}: evaluate again with this version; answers are kept.")
    return as_text(table)


def _evaluation(folder: Path) -> Source:
    if not (folder / EVALUATION_FILE).is_file() or not (folder / JUDGED_FILE).is_file():
        raise ConfigError(f"{folder} holds no evaluation: make one with 'personascope evaluate … --out {folder}'.")
    about = read_json(folder / EVALUATION_FILE)
    try:
        judge = {name: about["judge"][name] for name in ("spec", "identity")}
        judge["thresholds"] = {one.name: about["judge"][one.name] for one in fields(Thresholds)}
        judged = TypeAdapter(Judged).validate_python(judge | {"words": about["words"], "agreement": about["agreement"]})
        sampling, measures = about["config"].get("sampling"), about["measures"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / EVALUATION_FILE} is of another version: evaluate again into {folder}; answers are kept.") from error
    return Source(folder, judged_answers(folder), judged, sampling, measures)
