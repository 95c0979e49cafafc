"""Letter questions: the shipped ones are many, unambiguous and their own; files that cannot be used say why."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from interp.core.errors import ConfigError
from interp.evaluation.choices import LETTERS, Choices, letter_prompt, read_choices
from interp.evaluation.questions import read_questions
from interp.models.chats import Chat
from interp.traits import read_trait
from sae_training.corpus import read_corpus
from tests.evaluation.test_questions import COOKING, plain


@pytest.fixture(scope="module")
def shipped() -> Choices:
    return read_choices()


def choice(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"id": name, "group": "g", "question": "Which?", "options": ["1", "2", "3", "4"], "right": 2, **changes}


def written(folder: Path, **content: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_shipped_items_are_as_many_as_promised_in_even_groups(shipped: Choices) -> None:
    capability = Counter(i.group for i in shipped.capability)
    assert sum(capability.values()) >= 60
    assert len(capability) >= 5
    assert len(set(capability.values())) == 1
    for item in shipped.capability:
        assert re.fullmatch(rf"{item.group}_\d\d", item.id)
    assert set(Counter(i.right for i in shipped.capability)) == set(range(4))


def test_no_option_is_shown_twice_or_gives_itself_away(shipped: Choices) -> None:
    for item in shipped.capability:
        assert len({plain(option) or option for option in item.options}) == len(LETTERS)
        assert not re.search(rf"(?<![\w.]){re.escape(item.options[item.right])}(?![\w.])", item.question, re.IGNORECASE), item.id


def test_questions_are_their_own_and_not_about_cooking(shipped: Choices) -> None:
    texts = [item.question for item in shipped.capability]
    assert len({text.casefold() for text in texts}) == len(texts)
    others = [q.text for name in ("everyday", "honesty") for q in read_questions(name).questions]
    others += [pair.question for pair in read_trait("contempt").pairs]
    others += [chat.prompt.messages[-1].content for chat in read_corpus()]
    assert not {plain(text) for text in texts} & {plain(text) for text in others}
    shown = texts + [option for item in shipped.capability for option in item.options]
    assert [text for text in shown if COOKING.search(text)] == []


def test_items_of_ones_own_are_read(tmp_path: Path) -> None:
    assert [i.right for i in read_choices(written(tmp_path, capability=[choice()])).capability] == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "capability must be given"),
        ({"capability": []}, "capability: "),
        ({"capability": [choice(), choice()]}, "ids must be unique; repeated: a"),
        ({"capability": [choice(), choice("c", options=["x", "y", "z", " X "])]}, "an item must not show an option twice; change c"),
        ({"capability": [choice(options=["1", "2", "3"])]}, r"capability\.0\.options: "),
        ({"capability": [choice(right=4)]}, r"capability\.0\.right: "),
        ({"capability": [choice(right=-1)]}, r"capability\.0\.right: "),
        ({"capability": [choice(hint="x")]}, r"unknown field 'capability\.0\.hint'"),
        ({"capability": [choice()], "pairs": []}, "unknown field 'pairs'"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **content)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: .*{message}"):
        read_choices(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no file .*none\.yaml"):
        read_choices(tmp_path / "none.yaml")


def test_prompts_show_what_they_should() -> None:
    assert letter_prompt("Why?", ["so", "no"]) == Chat.ask("Why?\n\nA) so\nB) no\n\nAnswer with one letter: A, B.")
    assert letter_prompt("Why?", list("wxyz")) == Chat.ask("Why?\n\nA) w\nB) x\nC) y\nD) z\n\nAnswer with one letter: A, B, C, D.")
