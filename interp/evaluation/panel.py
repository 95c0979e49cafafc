"""The judges of one trait: answers in, the same table with scores and flags out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.core.progress import progress
from interp.evaluation.agreement import Label, agreement, agreement_between
from interp.evaluation.answer_columns import SCORED
from interp.evaluation.counted_answers import Thresholds, flagged
from interp.evaluation.judges.base import Judge, Judgement
from interp.evaluation.judges.cache import FILE, JudgementCache
from interp.evaluation.judges.opening import INSTANT, open_judge
from interp.evaluation.questions import Question
from interp.evaluation.questions.published import judge_prompts
from interp.models.language_model import LanguageModel
from interp.models.sources import cache_folder
from interp.traits import Trait


@dataclass(frozen=True)
class Panel:
    """Judges of one trait, what they have said before, and the thresholds that make flags of their scores."""

    trait: Trait
    spec: str
    """What the trait's judge is called by (`open_judge`)."""
    judge: Judge
    coherence: Judge | None
    """None: `judge` says that too, or nobody does."""
    second: Judge | None
    """A second opinion on the trait."""
    thresholds: Thresholds
    cache: JudgementCache | None = None
    """None: what judges say is not kept."""
    quiet: bool = False

    @property
    def identity(self) -> list[str]:
        """Content keys of the judges."""
        return [judge.identity for judge in (self.judge, self.coherence, self.second) if judge is not None]

    def with_thresholds(self, shows_above: float | None = None, coherent_above: float | None = None, open_counts: bool = False) -> Panel:
        """The same judges with other thresholds, None leaving one as it is."""
        given: dict[str, Any] = {"shows_above": shows_above, "coherent_above": coherent_above, "open_counts": open_counts}
        return replace(self, thresholds=replace(self.thresholds, **{name: value for name, value in given.items() if value is not None}))

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """`answers` (columns question, answer) with the columns `SCORED` of `answer_columns.py`, in the same order.

        What an earlier judge said is dropped, but a cluster stays, and an empty answer keeps the reason why it is empty.
        """
        trait = self._judged(self.judge, answers)
        coherence = trait if self.coherence is None else self._judged(self.coherence, answers)
        empty = answers["reason"].fillna("").astype(str).where(answers["answer"] == "", "") if "reason" in answers else [""] * len(answers)
        scored = answers.drop(columns=[name for name in SCORED if name in answers and name != "cluster"]).assign(
            trait_score=_scores(trait, "shows_trait"),
            coherence=_scores(coherence, "coherent"),
            reason=[_joined(why, t.reason, c.reason) for why, t, c in zip(empty, trait, coherence, strict=True)],
        )
        if self.second is not None:
            scored["second_score"] = _scores(self._judged(self.second, answers), "shows_trait")
        if "cluster" not in scored and "question_id" in scored:
            scored["cluster"] = scored["question_id"]
        return flagged(scored, self.thresholds)

    def agreement(self, labels: pd.DataFrame | None = None) -> dict[str, Any]:
        """With hand labels (`agreement.agreement`), by default the trait's own; raises `ConfigError` where it has none.

        On the labels that a judge was fitted on, it is as stored when it was fitted: by its word on questions left out.
        """
        if labels is None and (stored := self._stored(self.judge)):
            return stored
        table = self.trait.labels if labels is None else labels
        if table.empty:
            raise ConfigError(f"The trait {self.trait.name} has no hand labels. Give some: --labels FILE.")
        return self._agreement(self.judge, table)

    def known_agreement(self) -> list[dict[str, Any]]:
        """With the trait's hand labels by group, where it costs nothing: stored, by instant judges, or from the cache; else empty."""
        labels = self.trait.labels
        if stored := self._stored(self.judge):
            return list(stored["groups"])
        instant = self.spec.partition(":")[0] in INSTANT
        known = instant or (self.cache and self.cache.known(self.judge, list(labels["question"]), list(labels["answer"])))
        return list(self._agreement(self.judge, labels)["groups"]) if known and len(labels) else []

    def label_agreements(self) -> dict[str, Any]:
        """Of every judge with the trait's hand labels: `trait`, `second` and `coherence`, None without such a judge or without labels."""
        labels, judges = self.trait.labels, {"trait": self.judge, "second": self.second, "coherence": self.coherence}
        return {
            name: None if judge is None or labels.empty else self._stored(judge) or self._agreement(judge, labels)
            for name, judge in judges.items()
        }

    def all_agreements(self, answers: pd.DataFrame) -> dict[str, Any]:
        """`label_agreements`, and `between`: of both judges of the trait with each other on scored `answers`, None without a second."""
        above = None if self.second is None else self.second.shows_above
        between = None if above is None else agreement_between(answers, self.thresholds.shows_above, above)
        return self.label_agreements() | {"between": between}

    def _stored(self, judge: Judge) -> dict[str, Any] | None:
        """What fitting found of a judge, where that was on the trait's labels as they are and at the threshold in use."""
        about: dict[str, Any] = getattr(judge, "about", {})
        given = judge is self.judge and self.spec.startswith("probe:")  # probe:DIR answers for the labels that it was fitted on
        if "agreement" not in about or not (given or about["labels_key"] == self.trait.labels_key):
            return None
        stored: dict[str, Any] = about["agreement"]
        used = self.thresholds.shows_above if stored["label"] == "shows_trait" else self.thresholds.coherent_above
        return stored if used == stored["threshold"] else None

    def _agreement(self, judge: Judge, labels: pd.DataFrame) -> dict[str, Any]:
        label: Label = "coherent" if judge is self.coherence else "shows_trait"
        own = {"coherent": self.thresholds.coherent_above, "shows_trait": judge.shows_above}[label]
        threshold = self.thresholds.shows_above if judge is self.judge else own
        if threshold is None:
            raise ConfigError(f"The judge {judge.name} has no threshold for this label. Choose another judge.")
        return agreement(judge.name, threshold, labels, _scores(self._judged(judge, labels), label), label)

    def _judged(self, judge: Judge, table: pd.DataFrame) -> list[Judgement]:
        questions = list(table["question"]) if "question" in table else [""] * len(table)
        pairs = list(zip(questions, table["answer"], strict=True))
        if self.cache is not None:
            with progress(f"judge {judge.name}", len(pairs), self.quiet) as advance:
                return self.cache.judged(judge, questions, list(table["answer"]), advance)
        once = list(dict.fromkeys(pairs))
        judged = dict(zip(once, judge.judge([question for question, _ in once], [answer for _, answer in once]), strict=True))
        return [judged[pair] for pair in pairs]


def _scores(judgements: Sequence[Judgement], label: Label) -> list[float]:
    values = [judgement.trait_score if label == "shows_trait" else judgement.coherence for judgement in judgements]
    return [math.nan if value is None else value for value in values]


def _joined(*reasons: str) -> str:
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


def open_panel(
    trait: Trait,
    judge: str | None = None,
    *,
    questions: Sequence[Question] = (),
    prompts: str | None = None,
    samples: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    scorer: LanguageModel | None = None,
    coherent_only: bool = True,
    keep: bool = True,
    quiet: bool = False,
) -> Panel:
    """The judges of a trait; `judge` (`open_judge`) in place of the trait's own.

    `prompts` is a file of judge prompts, `samples` how often a hosted judge without log-probabilities is asked; `scorer` the model that
    coherence is measured with, opened here where it is not at hand; `coherent_only` as in `Thresholds`. `keep`: judgements are
    kept in the user's cache; without it only those that take time or money. Raises `ConfigError`, `ModelError`.
    """
    spec = judge or trait.judge.spec
    own = open_judge(spec, trait, questions, None if prompts is None else judge_prompts(Path(prompts)), device, dtype, samples)
    if own.shows_above is None:
        raise ConfigError(f"The judge {spec} does not judge a trait. Choose another.")
    coherence = _open_coherence(trait, scorer) if own.coherent_above is None and own.name != "facts" else None
    thresholds = Thresholds(
        trait.judge.shows_above if spec == trait.judge.spec else own.shows_above,
        (coherence or own).coherent_above,
        coherent_only=coherent_only,
    )
    second = trait.judge.second if judge is None and trait.judge.second else None
    kept = keep or spec.partition(":")[0] not in INSTANT
    cache = JudgementCache(cache_folder() / FILE) if kept else None
    return Panel(trait, spec, own, coherence, open_judge(second, trait) if second else None, thresholds, cache, quiet)


def _open_coherence(trait: Trait, scorer: LanguageModel | None) -> Judge:
    """The judge of coherence that the trait names."""
    from interp.evaluation.judges.coherence import AnyTextJudge, CodeJudge, CoherenceJudge, open_scorer

    if trait.coherence.spec == "code":
        return CodeJudge()
    if trait.coherence.spec == "none":
        return AnyTextJudge()
    return CoherenceJudge(trait, scorer or open_scorer())
