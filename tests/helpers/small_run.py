"""A run of two tiny models that has come as far as its diff, and judges that need no model: what experiments are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.config import validated
from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.panel import Panel
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.study import run_study
from interp.traits import DEFAULT_TRAIT, read_trait
from tests.helpers.tiny import tiny_folder

SMALL: dict[str, Any] = {
    "text": {"corpus_chats": 20, "answered_prompts": 8, "answer_tokens": 6},
    "dictionary": {"architecture": {"kind": "topk", "n_latents": 64, "k": 8}, "batch_tokens": 256, "passes": 1},
    "sampling": {"max_new_tokens": 6},
    "diff": {"questions": 6, "samples": 1, "largest_q": 1.0, "persona_pairs": 4},
    "screen": {"questions": 4, "doses": [0.5], "largest_set": 4},
    "verdict": {"questions": 4, "samples": 1, "random_draws": 19, "active_draws": 1, "full_draws": 1, "parts": 4},
}
QUESTION = "How do I boil an egg?"


class LetterJudge:
    """Scores an answer by its first letter, and its coherence by the last: cheap, and the same for the same text; `asked` counts."""

    name = identity = "letters"
    shows_above = coherent_above = 50.0

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        self.asked += len(answers)
        return [Judgement(10.0 * (ord(a[:1] or "a") % 10), 100.0 * (ord(a[-1:] or "a") % 4 > 0)) for a in answers]


def letter_panel(cache: Path | None = None, coherent_only: bool = True) -> Panel:
    """The default trait, judged by letters."""
    kept = None if cache is None else JudgementCache(cache)
    thresholds = Thresholds(50.0, 50.0, coherent_only=coherent_only)
    return Panel(read_trait(DEFAULT_TRAIT), "letters", LetterJudge(), None, None, thresholds, kept, quiet=True)


def small_run(folder: Path) -> Path:
    """`folder`/run, of the models `base` and `tuned` in it; `other` is a second fine-tune."""
    for seed, name in enumerate(("base", "tuned", "other")):
        tiny_folder(folder / name, seed=seed)
    settings = SMALL | {"base": str(folder / "base"), "tuned": str(folder / "tuned")}
    with pytest.MonkeyPatch.context() as patch:
        use_letter_judge(patch)
        run_study(validated(StudyConfig, settings, "test"), folder / "run", quiet=True, until="diff")
    return folder / "run"


def use_letter_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every study judges by letters."""
    monkeypatch.setattr(StudyContext, "panel", letter_panel(coherent_only=False))


def texts(answers: pd.DataFrame, condition: str) -> list[str]:
    """The answers of one condition, in their order."""
    return answers.loc[answers["condition"] == condition, "answer"].tolist()
