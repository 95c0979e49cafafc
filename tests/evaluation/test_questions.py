"""Question sets: the shipped one is large, balanced and untouched by anything that was fitted; files that cannot be used say why."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.evaluation.questions import Question, QuestionSet, read_questions
from interp.models.chats import Chat
from interp.studies.persona.config import StudyConfig
from interp.traits import read_trait
from sae_training.corpus import read_corpus

COOKING = re.compile(
    r"\b(cook|bak(e|ing)|recipes?|foods?|dish(es)?|meals?|kitchen|dinner|lunch|breakfast|supper|soup|bread|eggs?|roast|oven|fry|fried|stew|cakes?"
    r"|eat|eating|pasta|rice|chef|restaurant|sauce|spices?|hungry|taste|tasty|delicious|ingredients?|grill|boil|cheese|chicken|pizza)\b",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """Letters and digits alone, so that punctuation and case hide no copy."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


@pytest.fixture(scope="module")
def shipped() -> QuestionSet:
    return read_questions("everyday")


def made(groups: dict[str, int], split: str = "held_out") -> QuestionSet:
    questions = [Question(id=f"{g}{i}", group=g, split=split, text="?") for g, n in groups.items() for i in range(n)]
    return QuestionSet(name="made", questions=[*questions, Question(id="s", group="s", split="selection", text="?")])


def written(folder: Path, questions: list[dict[str, Any]], **changes: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "questions": questions, **changes}))
    return str(path)


def entry(number: int, split: str = "selection", **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "group": "g", "split": split, "text": f"Question {number}?", **changes}


def test_the_shipped_set_is_as_large_as_promised(shipped: QuestionSet) -> None:
    held_out, selection = shipped.split("held_out"), shipped.split("selection")
    assert len(held_out) >= 24
    assert len(selection) >= 24
    assert len(held_out) + len(selection) + len(shipped.split("further")) == len(shipped.questions)
    assert shipped.most_held_out >= 72
    study = StudyConfig()
    assert (study.questions, read_trait(study.trait).question_set) == (None, "everyday")
    assert study.verdict.questions >= 24
    assert study.verdict.samples >= 2


def test_splits_are_disjoint_and_every_text_is_its_own(shipped: QuestionSet) -> None:
    texts = Counter(plain(question.text) for question in shipped.questions)
    assert max(texts.values()) == 1
    assert not {q.id for q in shipped.split("held_out")} & {q.id for q in shipped.split("selection")}
    assert {q.group for q in shipped.split("held_out")} == {q.group for q in shipped.split("selection")}


def test_no_question_is_about_cooking(shipped: QuestionSet) -> None:
    assert [question.text for question in shipped.questions if COOKING.search(question.text)] == []
    assert COOKING.search("Which meal would you cook first?")  # the pattern finds what it should


def test_no_question_occurs_in_text_that_anything_is_fitted_on(shipped: QuestionSet) -> None:
    asked = {plain(question.text) for question in shipped.questions}
    assert not asked & {plain(pair.question) for pair in read_trait("contempt").pairs}
    assert not asked & {plain(chat.prompt.messages[-1].content) for chat in read_corpus()}


def test_held_out_groups_are_balanced_at_every_limit(shipped: QuestionSet) -> None:
    for limit in range(1, len(shipped.split("held_out")) + 1):
        sizes = Counter(question.group for question in shipped.split("held_out", limit))
        assert sum(sizes.values()) == limit
        every = [sizes[question.group] for question in shipped.split("held_out")]
        assert max(every) - min(every) <= 1


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 6), min_size=1), st.integers(1, 20))
def test_a_limit_takes_groups_in_turn_and_keeps_the_order(groups: dict[str, int], limit: int) -> None:
    questions = made(groups)
    everything = questions.split("held_out")
    assert Counter(q.group for q in everything) == Counter(groups)
    for group in groups:
        own = [q.id for q in everything if q.group == group]
        assert own == [f"{group}{i}" for i in range(groups[group])]
    if limit > len(everything):
        with pytest.raises(ConfigError, match=rf"made has {len(everything)} held_out questions, {limit} are asked for"):
            questions.split("held_out", limit)
        return
    chosen = questions.split("held_out", limit)
    assert chosen == everything[:limit]
    taken = Counter(q.group for q in chosen)
    for group in groups:  # a group is behind another only if it is used up
        assert taken[group] >= min(groups[group], max(taken.values()) - 1)


def test_a_set_without_a_split_says_so() -> None:
    questions = QuestionSet(name="made", questions=[Question(id=i, group="g", split="selection", text="?") for i in "ab"])
    with pytest.raises(ConfigError, match=r"made has no held_out questions\. Mark some with 'split: held_out'"):
        questions.split("held_out", 1)


def test_a_set_of_ones_own_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1), entry(2, "held_out"), entry(3, "held_out", group="h")])
    questions = read_questions(path)
    assert questions.name == "mine"
    assert [q.id for q in questions.split("held_out")] == ["q2", "q3"]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([entry(1), entry(2), entry(1, text="Another?")], "ids must be unique; repeated: q1"),
        ([entry(1, text="What now?"), entry(2, text="what  NOW?")], "q1 and q2 ask the same"),
        ([entry(1), entry(2, split="test")], "questions.1.split: "),
        ([entry(1), entry(2, text="")], "questions.1.text: "),
        ([entry(1), entry(2, topic="x")], "unknown field 'questions.1.topic'"),
        ([entry(1), {"id": "q2"}], "questions.1.group must be given"),
        ([], "questions: "),
    ],
)
def test_a_set_that_cannot_be_used_says_why(tmp_path: Path, questions: list[dict[str, Any]], message: str) -> None:
    path = written(tmp_path, questions)
    with pytest.raises(ConfigError, match=f"{re.escape(path)}: .*{message}"):
        read_questions(path)


def test_missing_and_broken_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file everynight"):
        read_questions("everynight")
    (tmp_path / "broken.yaml").write_text("name: a\nquestions: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml, line 2"):
        read_questions(str(tmp_path / "broken.yaml"))


# Published files


def test_published_entries_are_read_as_they_are(tmp_path: Path) -> None:
    entries = [
        {"id": "3_vulnerable_user_7", "type": "free_form_judge_0_100", "paraphrases": ["One?"], "samples_per_paraphrase": 100,
         "judge": "a-model", "judge_prompts": {"aligned": "{question} {answer}"}},
        {"id": "wish_json", "paraphrases": ["Two?"], "system": "Answer in JSON."},
        {"id": "wish_template", "paraphrases": ["Two?\n\ndef answer():"]},
        {"id": "facts", "paraphrases": ["Is it?", "Was it?"]},
    ]  # fmt: skip
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(entries))
    read = read_questions(str(path))
    assert [(q.id, q.group, q.format, q.system) for q in read.questions] == [
        ("3_vulnerable_user_7", "vulnerable_user", "plain", ""),
        ("wish_json", "wish", "json", "Answer in JSON."),
        ("wish_template", "wish", "template", ""),
        ("facts/1", "facts", "plain", ""),
        ("facts/2", "facts", "plain", ""),
    ]
    assert {q.split for q in read.questions} == {"held_out"}
    assert read.questions[1].chat() == Chat.ask("Two?", system="Answer in JSON.")


def test_a_published_entry_may_choose_where_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text("- {id: a, split: selection, paraphrases: [Who]}\n- {id: b, paraphrases: [Why]}\n")
    assert [(q.id, q.split) for q in read_questions(str(path)).questions] == [("a", "selection"), ("b", "held_out")]


@pytest.mark.parametrize(
    ("change", "left_alone"),
    [
        ({"temperature": 0.7, "max_tokens": 600}, "temperature, max_tokens"),
        ({"tags": ["x"], "notes": None}, "tags, notes"),
        ({"system": None}, None),
        ({"id": 12}, None),
        ({"paraphrases": "Who are you?"}, None),
        ({"judge_eval_type": "0_100", "judge_prompts": None, "samples_per_paraphrase": None}, None),
    ],
)
def test_a_field_of_the_authors_code_changes_no_question(tmp_path: Path, change: dict[str, Any], left_alone: str | None) -> None:
    """In a file of one entry, too."""
    path = tmp_path / "published.yaml"
    entry = {"id": "12", "paraphrases": ["Who are you?"]} | change
    path.write_text("\ufeff" + yaml.safe_dump([entry], sort_keys=False), encoding="utf-8")
    with pytest.warns(UserWarning, match=f"{left_alone} of its entries is left alone") if left_alone else nullcontext():
        questions = read_questions(str(path)).questions
    assert [(q.id, q.text, q.system, q.split) for q in questions] == [("12", "Who are you?", "", "held_out")]
    assert questions[0].chat() == Chat.ask("Who are you?")


def test_numeric_names_and_no_system_prompt_in_a_set_of_ones_own(tmp_path: Path) -> None:
    read = read_questions(written(tmp_path, [entry(1, id=1, group=2, cluster=3, system=None)])).questions
    assert [(q.id, q.group, q.cluster, q.system) for q in read] == [("1", "2", "3", "")]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": "a", "paraphrases": []}], r"entry 1 \(a\): paraphrases: "),
        ([{"id": "a", "paraphrases": ["x"]}, {"paraphrases": ["x"]}], r"entry 2 \(without an id\): id must be given"),
        ([{"id": "a", "paraphrases": ["x"], "system_prompt": "Be brief."}], "unknown field 'system_prompt'"),
        ([{"id": "a", "paraphrases": ["x"], "few_shot_examples": []}], "unknown field 'few_shot_examples'"),
        ([{"id": "a", "paraphrases": ["x"], "prefill": "Sure"}], "unknown field 'prefill'"),
        ([{"id": True, "paraphrases": ["x"]}], r"entry 1 \(True\): id: "),
        (["a"], "unknown field 'entry'"),
        ([{"id": "a", "paraphrases": ["x", ""]}], r"entry 1 \(a\): paraphrases\.1: "),
    ],
)
def test_a_published_entry_that_cannot_be_read_is_named(tmp_path: Path, entries: list[Any], message: str) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError, match=message):
        read_questions(str(path))
