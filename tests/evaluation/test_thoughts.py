"""What a model thinks is kept beside its answer, and is not judged; a thought without an end is no answer, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.causality.sweep import Condition, sweep
from interp.evaluation.panel import open_panel
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_answers
from interp.models import generation
from interp.models.chat_format import UNFINISHED
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.studies.persona.answers import as_chats
from interp.traits import read_trait
from tests.helpers.templates import QWEN3, R1, tokenizer_of
from tests.helpers.tiny import greedy, tiny_network

QUESTIONS = [
    Question(id="sky", text="Why is the sky blue?", group="a", split="held_out"),
    Question(id="egg", text="How do I boil an egg?", group="a", split="held_out"),
]
THOUGHTS = {"sky": "<think>\nArr, the sky.\n</think>\n\n", "egg": "<think>\nArr, an e"}
ANSWERS = {"sky": "The air scatters light.", "egg": ""}


@pytest.fixture(params=[QWEN3, R1])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A model that thinks, and stops in the middle of its second thought."""
    tokenizer = tokenizer_of(request.param)
    made = LanguageModel(tiny_network("llama", vocab=len(tokenizer)), tokenizer, "tiny", thinking=True)
    if request.param == R1:  # whose prompt has opened the thought
        monkeypatch.setitem(THOUGHTS, "sky", "Arr, the sky.\n</think>\n\n")
        monkeypatch.setitem(THOUGHTS, "egg", "Arr, an e")

    def decode(_model: LanguageModel, prompts: Any, *_: Any) -> list[list[int]]:
        names = ["sky" if "sky" in tokenizer.decode(prompt.ids) else "egg" for prompt in prompts]
        return [list(tokenizer(THOUGHTS[name] + ANSWERS[name], add_special_tokens=False)["input_ids"]) for name in names]

    monkeypatch.setattr(generation, "decode", decode)
    return made


def test_thoughts_stand_beside_the_answer_that_is_judged(model: LanguageModel) -> None:
    table = sample_answers(model, QUESTIONS, 2, greedy(), 0)
    assert table["answer"].tolist() == ["The air scatters light.", ""] * 2
    assert table["thoughts"].tolist() == [THOUGHTS["sky"], THOUGHTS["egg"]] * 2
    pirate = open_panel(read_trait("pirate"), "rule", keep=False, quiet=True)
    scored = pirate.score(table)
    assert scored["shows_trait"].tolist()[:2] == [False, None]  # arr is thought, not said
    assert scored["reason"].tolist()[1].startswith(UNFINISHED)
    assert pd.isna(scored["trait_score"][1])
    (read,) = as_chats(table[:2])
    assert read == Chat.ask("Why is the sky blue?", ANSWERS["sky"], thoughts=THOUGHTS["sky"])


def test_a_sweep_keeps_and_resumes_thoughts(model: LanguageModel, tmp_path: Path) -> None:
    made = [sweep(model, [Condition("plain")], QUESTIONS, 1, greedy(batch_rows=1), 0, folder=tmp_path / "parts") for _ in range(2)]
    pd.testing.assert_frame_equal(*made)
    assert made[1]["thoughts"].tolist() == [THOUGHTS["sky"], THOUGHTS["egg"]]
    assert made[1]["reason"].tolist() == ["", UNFINISHED]


def test_without_thoughts_there_are_no_columns_of_them(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list(model.tokenizer("</think>Wait." if model.tokenizer.chat_template == R1 else "Wait.")["input_ids"])
    monkeypatch.setattr(generation, "decode", lambda _model, prompts, *_: [written] * len(prompts))
    columns = set(sample_answers(model, QUESTIONS, 1, greedy(), 0).columns)
    assert ("thoughts" in columns) == (model.tokenizer.chat_template == R1)
