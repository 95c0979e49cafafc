"""A run of two tiny models that has come as far as its diff, and judges that need no model: what the verbs are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.config import validated
from interp.evaluation.judges.base import Done, Judgement, handed_over
from interp.evaluation.judges.cache import JudgementCache
from interp.studies.judging import Bench
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.study import run_study
from tests.helpers.tiny import tiny_folder

SMALL: dict[str, Any] = {
    "text": {"corpus_chats": 20, "answered_prompts": 8, "answer_tokens": 6},
    "dictionary": {"architecture": {"kind": "topk", "n_latents": 64, "k": 8}, "batch_tokens": 256, "passes": 1},
    "sampling": {"max_new_tokens": 6},
    "diff": {"questions": 6, "samples": 1, "largest_q": 1.0, "candidates_per_metric": 2, "persona_pairs": 4},
    "screen": {"questions": 4, "doses": [0.5]},
    "verdict": {"questions": 4, "samples": 1, "random_draws": 19, "active_draws": 1, "full_draws": 1, "parts": 4},
}


class LetterJudge:
    """Calls an answer hostile by its first letter, and coherent by its last: cheap, and the same for the same text."""

    def grade(self, answers: pd.DataFrame) -> pd.DataFrame:
        p = [ord(text[:1] or "a") % 10 / 10 for text in answers["answer"]]
        coherent = [ord(text[-1:] or "a") % 4 > 0 for text in answers["answer"]]
        columns = {"p_hostile": p, "vader": 0.0, "fluency": 1.0, "hostile": [x > 0.5 for x in p], "coherent": coherent}
        return answers.assign(**columns)


class LetterAlignment:
    """The same as a judge of both, on the scale of judges; `asked` counts what it was asked."""

    name = identity = "letters"
    misaligned_below, coherent_above = 50.0, 50.0

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, questions: Sequence[str], answers: Sequence[str], done: Done | None = None) -> list[Judgement]:
        self.asked += len(answers)
        table = LetterJudge().grade(pd.DataFrame({"answer": list(answers)}))
        pairs = zip(table["p_hostile"], table["coherent"], strict=True)
        return handed_over([Judgement(100.0 * (1.0 - p), 100.0 if coherent else 0.0) for p, coherent in pairs], done)


def small_run(folder: Path) -> Path:
    """`folder`/run, of the models `base` and `tuned` in it; `other` is a second fine-tune."""
    for seed, name in enumerate(("base", "tuned", "other")):
        tiny_folder(folder / name, seed=seed)
    settings = SMALL | {"base": str(folder / "base"), "tuned": str(folder / "tuned")}
    run_study(validated(StudyConfig, settings, "test"), folder / "run", quiet=True, until="diff")
    return folder / "run"


def letter_bench(cache: Path) -> Bench:
    """What evaluations judge with, by letters."""
    return Bench("letters", LetterAlignment(), None, JudgementCache(cache), quiet=True)


def use_letter_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every study judges by letters."""
    monkeypatch.setattr(StudyContext, "grader", LetterJudge())
