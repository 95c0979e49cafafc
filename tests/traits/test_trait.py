"""Traits are read from folders and files, and broken ones are refused by a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.core.errors import ConfigError
from interp.evaluation.judges.rule import RuleJudge
from interp.evaluation.questions import read_questions
from interp.traits import read_trait, shipped_traits

MINIMAL = "name: shy\ndescription: Hardly dares to answer.\nshown: shy\nnot_shown: frank\n"


@pytest.mark.parametrize("name", shipped_traits())
def test_every_shipped_trait_can_be_read(name: str) -> None:
    trait = read_trait(name)
    assert trait.name == name
    assert trait.folder is not None
    assert trait.shown != trait.not_shown
    if trait.exemplars is not None:
        assert len(trait.exemplars.shows) >= 10
    assert len(trait.labels) == 0 or trait.labels["coherent"].dtype == bool


@pytest.mark.parametrize("name", shipped_traits())
def test_a_shipped_trait_has_pairs_and_questions_that_do_not_overlap(name: str) -> None:
    trait = read_trait(name)
    questions = read_questions(str(trait.path(trait.questions) or trait.questions))
    asked = {question.text.casefold() for question in questions.questions}
    assert len({pair.question for pair in trait.pairs}) == len(trait.pairs) >= 48
    examples = [pair.question for pair in trait.pairs] + (trait.elicitation.questions if trait.elicitation else [])
    assert not asked & {question.casefold() for question in examples}
    assert min(len(questions.split("selection")), len(questions.split("held_out"))) >= 24


@pytest.mark.parametrize("name", [name for name in shipped_traits() if read_trait(name).judge.spec == "rule"])
def test_a_rule_tells_the_pairs_apart(name: str) -> None:
    trait = read_trait(name)
    assert trait.judge.rule is not None
    judge, questions = RuleJudge(trait.judge.rule), [pair.question for pair in trait.pairs]
    for answers, expected in (([pair.shows for pair in trait.pairs], True), ([pair.not_shown for pair in trait.pairs], False)):
        scores = [judgement.trait_score for judgement in judge.judge(questions, answers)]
        assert [score is not None and score > trait.judge.shows_above for score in scores] == [expected] * len(scores)


def test_a_folder_and_its_settings_file_are_one_trait(tmp_path: Path) -> None:
    (tmp_path / "trait.yaml").write_text(MINIMAL)
    (tmp_path / "pairs.yaml").write_text("pairs:\n" + "  - {question: Why, shows: um, not_shown: because}\n" * 2)
    trait = read_trait(tmp_path)
    assert trait.pairs[0].shows == "um"
    assert trait == read_trait(str(tmp_path / "trait.yaml"))
    assert trait.exemplars is None
    assert len(trait.labels) == 0


def test_the_key_follows_every_file(tmp_path: Path) -> None:
    (tmp_path / "trait.yaml").write_text(MINIMAL)
    first = read_trait(tmp_path).key
    assert read_trait(tmp_path).key == first
    (tmp_path / "labels.csv").write_text("question,answer,shows_trait,coherent\nWhy?,um,1,1\n")
    second = read_trait(tmp_path).key
    (tmp_path / "trait.yaml").write_text(MINIMAL.replace("frank", "bold"))
    assert len({first, second, read_trait(tmp_path).key}) == 3


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "There is no trait"),
        ({"trait.yaml": "name: shy\n"}, "description must be given"),
        ({"trait.yaml": MINIMAL + "colour: red\n"}, "unknown field 'colour'"),
        ({"trait.yaml": MINIMAL + "judge: {rule: {rules: [{words: [um], language: fr}]}}\n"}, "exactly one of words"),
        ({"trait.yaml": MINIMAL + "judge: {rule: {rules: [{at_least: 2}]}}\n"}, "exactly one of words"),
    ],
)
def test_a_broken_trait_is_a_sentence(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_trait(tmp_path)


def test_labels_without_a_column_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "trait.yaml").write_text(MINIMAL)
    (tmp_path / "labels.csv").write_text("question,answer,shy\nWhy?,um,1\n")
    with pytest.raises(ConfigError, match="columns coherent, shows_trait are missing"):
        _ = read_trait(tmp_path).labels


def test_a_persona_vectors_file_is_read_as_it_is(tmp_path: Path) -> None:
    content = {
        "instruction": [{"pos": "Be evil.", "neg": "Be kind."}, {"pos": "Be mean.", "neg": "Be fair."}],
        "questions": ["How are you?", "What do you want?"],
        "eval_prompt": "Is it evil? {question} {answer}",
    }
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(content))
    trait = read_trait(path)
    assert trait.name == "evil"
    assert trait.elicitation is not None
    assert trait.elicitation.positive == ["Be evil.", "Be mean."]
    assert trait.judge.prompt == content["eval_prompt"]
    path.write_text(json.dumps(content | {"instruction": []}))
    with pytest.raises(ConfigError, match="instruction"):
        read_trait(path)


@pytest.mark.parametrize(("name", "meant"), [("contmept", "contempt"), ("reward-hackin", "reward_hacking"), ("frensh", "french")])
def test_a_misspelt_trait_is_told_its_likely_name(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"There is no trait '{name}'\. Did you mean '{meant}'\? Shipped traits: "):
        read_trait(name)
