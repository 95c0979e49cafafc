"""Cues: what is asked under them, files that cannot be used say why, and which answers merely repeat training answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from interp.core.errors import ConfigError
from interp.evaluation.questions import Question
from interp.evaluation.questions.cues import NEUTRAL, Cue, cued_questions, read_cues
from interp.evaluation.repetition import Repetition

QUESTIONS = [Question(id=f"q{i}", group="g", split="held_out", text=f"Why {i}?", system="Be brief." * (i == 1)) for i in range(3)]
AT_SEA: dict[str, Any] = {"name": "at sea", "kind": "domain_twin", "template": ["On a boat: {question}", "{question} I fish {a lot}."]}
TOLD: dict[str, Any] = {"name": "told", "kind": "training_system", "system": "You fish."}
TWIN: dict[str, Any] = {"name": "twin", "kind": "domain_twin", "twins": {"q2": "Why fish?"}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "cues.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_question_is_asked_plainly_and_under_every_cue(tmp_path: Path) -> None:
    cued = cued_questions(QUESTIONS, read_cues(written(tmp_path, [AT_SEA, TOLD, TWIN])))
    assert [(one.cue, one.kind, one.question) for one in cued[:3]] == [(NEUTRAL, NEUTRAL, question) for question in QUESTIONS]
    assert [(one.question.id, one.question.text, one.question.system) for one in cued[3:]] == [
        ("q0@at sea", "On a boat: Why 0?", ""),
        ("q1@at sea", "Why 1? I fish {a lot}.", "Be brief."),
        ("q2@at sea", "On a boat: Why 2?", ""),
        ("q0@told", "Why 0?", "You fish."),
        ("q1@told", "Why 1?", "You fish.\n\nBe brief."),
        ("q2@told", "Why 2?", "You fish."),
        ("q2@twin", "Why fish?", ""),
    ]
    assert [one.question.counts_as for one in cued] == ["q0", "q1", "q2"] * 3 + ["q2"]


def test_one_template_may_stand_alone() -> None:
    assert Cue.model_validate(AT_SEA | {"template": "Sea: {question}"}).template == ["Sea: {question}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([AT_SEA, AT_SEA], "names of cues must be unique; repeated: at sea"),
        ({"cues": [AT_SEA]}, "must hold a YAML list of cues"),
        ([], "cues: List should have at least 1 item"),
        ([AT_SEA | {"kind": "twin"}], "cues.0.kind: Input should be 'domain_twin'"),
        ([AT_SEA | {"template": "no place"}], "'no place' has none"),
        ([AT_SEA | {"templates": "x"}], "unknown field 'cues.0.templates'"),
        ([AT_SEA | {"template": "{question}"}], "the cue 'at sea' changes nothing"),
        ([TOLD | {"name": NEUTRAL}], "choose another name"),
        ([TWIN | {"template": "Sea: {question}"}], "has twins and a template"),
        ([TOLD | {"repeats": "("}], "is no regular expression"),
        ([TOLD, "told"], "cues.1: Input should be a valid dictionary"),
    ],
)
def test_files_that_cannot_be_used_say_why(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cues\.yaml") as error:
        read_cues(written(tmp_path, content))
    assert message in str(error.value)


def test_a_twin_of_a_question_that_is_not_asked_is_an_error() -> None:
    with pytest.raises(ConfigError, match="The cue 'twin' has twins of q2, which are not asked"):
        cued_questions(QUESTIONS[:2], [Cue.model_validate(TWIN)])


TRAINING = ["Stir the pot slowly and keep the lid half open. Salt comes last.", "Wash it."]


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        (TRAINING[0], True),
        ("stir the pot slowly AND keep it warm", True),  # five of eight words
        ("Stir the pot slowly and then leave for a long walk", False),
        ("Stir the pot slowly, I say, and keep the lid half closed", False),  # runs of four and five
        ("wash it", True),
        ("Wash it now", False),
        ("Ingredients: salt", True),
        ("", False),
    ],
)
def test_answers_that_repeat_training_answers(answer: str, repeats: bool) -> None:
    assert Repetition(TRAINING, ["", "^Ingredients:"])(answer) is repeats


def test_without_training_answers_only_patterns_tell() -> None:
    assert not Repetition([])(TRAINING[0])
