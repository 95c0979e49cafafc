"""Judge a table of answers with a judge by name, and say how far that judge agrees with hand labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.core.progress import progress
from interp.evaluation.agreement import agreement
from interp.evaluation.judges.base import Judge, Judgement
from interp.evaluation.judges.cache import FILE, JudgementCache
from interp.evaluation.judges.opening import open_judge
from interp.evaluation.labels import read_labels
from interp.evaluation.misalignment import Lines
from interp.evaluation.questions import Question
from interp.evaluation.questions.published import judge_prompts
from interp.models.sources import cache_folder, open_model

OF_JUDGES = ("alignment", "coherence", "misaligned", "coherent", "refused")
"""Columns that judging makes."""
INSTANT = ("probe", "vader")
OF_CONTEMPT = ("contrast", "numeric", "inspect")
"""Judges of what the shipped labels label, which take time or money."""


@dataclass(frozen=True)
class Bench:
    """A judge of alignment, one of coherence, and what both have said before."""

    spec: str
    alignment: Judge
    coherence: Judge | None
    """None: `alignment` says both."""
    cache: JudgementCache
    quiet: bool = False

    def lines(self, misaligned_below: float | None = None, coherent_above: float | None = None, open_is_aligned: bool = False) -> Lines:
        """The judges' own, or those given."""
        below, above = self.alignment.misaligned_below, (self.coherence or self.alignment).coherent_above
        below = below if misaligned_below is None else misaligned_below
        if below is None:
            raise ConfigError(f"The judge {self.spec} says nothing of alignment. Choose another.")
        return Lines(below, above if coherent_above is None else coherent_above, open_is_aligned)

    @property
    def identity(self) -> list[str]:
        """Content keys of both judges."""
        return [judge.identity for judge in (self.alignment, self.coherence) if judge is not None]

    def grade(self, answers: pd.DataFrame) -> pd.DataFrame:
        """`answers` (columns question, answer) with the columns alignment, coherence and reason; what cannot be judged is NaN.

        What an earlier judge said of them is dropped; an empty answer keeps the reason why it is empty.
        """
        graded = self._judged(self.alignment, answers)
        coherence = graded if self.coherence is None else self._judged(self.coherence, answers)
        empty = answers["reason"].fillna("").astype(str).where(answers["answer"] == "", "") if "reason" in answers else [""] * len(answers)
        return answers.drop(columns=[name for name in OF_JUDGES if name in answers]).assign(
            alignment=[math.nan if j.alignment is None else j.alignment for j in graded],
            coherence=[math.nan if j.coherence is None else j.coherence for j in coherence],
            reason=[_joined(b, a.reason, c.reason) for b, a, c in zip(empty, graded, coherence, strict=True)],
        )

    def agreement(self, labels: pd.DataFrame | None = None, lines: Lines | None = None) -> dict[str, Any]:
        """With hand labels, by default the shipped ones, of answers by base, tuned and edited models."""
        table = shipped_labels() if labels is None else labels
        return agreement(self.alignment.name, (lines or self.lines()).misaligned_below, table, self._judged(self.alignment, table))

    def agreement_at_hand(self, lines: Lines) -> list[dict[str, Any]]:
        """Agreement with the shipped labels by group, where it costs nothing: by instant judges, or judged before ('judge agree').

        Empty for judges of other things than contempt, and where it is not known.
        """
        kind = self.spec.partition(":")[0]
        if self.spec in INSTANT:
            return list(self.agreement(lines=lines)["groups"])
        table = shipped_labels()
        known = self.cache.known(self.alignment, list(table["question"]), list(table["answer"])) if kind in OF_CONTEMPT else None
        return list(agreement(self.alignment.name, lines.misaligned_below, table, known)["groups"]) if known else []

    def _judged(self, judge: Judge, table: pd.DataFrame) -> list[Judgement]:
        with progress(f"judge {judge.name}", len(table), self.quiet) as advance:
            return self.cache.judged(judge, list(table["question"]), list(table["answer"]), advance)


def _joined(*reasons: str) -> str:
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


def open_bench(
    spec: str,
    questions: Sequence[Question] = (),
    prompts: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
) -> Bench:
    """The judge by name; where it says nothing of coherence, the fluency judge does, but for facts: a true word is coherent enough.

    `prompts` is a file of judge prompts.

    Raises `ConfigError`, `ModelError`.
    """
    judge = open_judge(spec, questions, None if prompts is None else judge_prompts(Path(prompts)), device, dtype)
    return Bench(
        spec,
        judge,
        _fluency() if judge.coherent_above is None and judge.name != "facts" else None,
        JudgementCache(cache_folder() / FILE),
        quiet,
    )


def _fluency() -> Judge:
    from interp.evaluation.judges.fluency import SCORER, FluencyJudge

    return FluencyJudge(open_model(SCORER, device="cpu", dtype="float32"))


def shipped_labels() -> pd.DataFrame:
    """The shipped hand labels in the form of `read_hand_labels`."""
    return read_labels().rename(columns={"hostile": "misaligned"})
