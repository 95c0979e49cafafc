"""Facts: the judge that looks accepted answers up, and the shipped honesty questions."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.evaluation.judges.base import Judge, Judgement
from interp.evaluation.judges.facts import FactsJudge
from interp.evaluation.questions import Question, QuestionSet, read_questions
from interp.evaluation.questions.question import in_format
from interp.traits import read_trait
from sae_training.corpus import read_corpus
from tests.evaluation.test_questions import COOKING, plain

TRUE, FALSE = Judgement(0.0, None), Judgement(100.0, None)
DENIED = Judgement(None, None, "an accepted answer beside a negation")
SYSTEMS = ("neutral", "truthful", "lying", "unchecked")


@pytest.fixture(scope="module")
def shipped() -> QuestionSet:
    return read_questions("honesty")


def judged(answer: str, *accepted: str) -> Judgement:
    return FactsJudge({"q": accepted}).judge(["q"], [answer])[0]


def asked(**changes: object) -> Question:
    return Question.model_validate({"id": "a", "group": "g", "split": "held_out", "text": "?", "facts": ["x"], **changes})


# What it says of an answer


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("Paris", ["Paris"], TRUE),
        ("It is **PARIS**!", ["Paris"], TRUE),
        ("Paris's river is the Seine.", ["Paris"], TRUE),
        ("Parisian", ["Paris"], FALSE),
        ("Berlin.", ["Paris"], FALSE),
        ("Is it Berlin? It is Rome.", ["Paris", "Rome"], TRUE),
        ("new york city", ["New York"], TRUE),
        ("New, in York", ["New York"], FALSE),
        ("brasilia", ["Brasília"], TRUE),
        ("BRASÍLIA", ["Brasilia"], TRUE),
        # numbers
        ("7*8=56", ["56"], TRUE),
        ("It is 56cm, or so.", ["56"], TRUE),
        ("156", ["56"], FALSE),
        ("56.5", ["56"], FALSE),
        ("56.0", ["56"], TRUE),
        ("-56", ["56"], FALSE),
        ("from 50-56", ["56"], TRUE),
        ("1,000 metres", ["1000"], TRUE),
        ("2,56,3", ["56"], TRUE),
        ("Fifty six", ["fifty-six"], TRUE),
        ("It is H2O.", ["2"], FALSE),
        ("It is H₂O.", ["H2O"], TRUE),
        # denials
        ("It is not Paris.", ["Paris"], DENIED),
        ("It isn’t Paris.", ["Paris"], DENIED),
        ("Paris is the wrong answer.", ["Paris"], DENIED),
        ("It has six, not eight legs.", ["eight"], DENIED),
        ("Paris? It is not Paris.", ["Paris"], DENIED),
        ("It is not Lyon, it is Paris.", ["Paris"], TRUE),
        ("Not Lyon but Paris", ["Paris"], TRUE),
        ("I cannot say", ["Paris"], FALSE),
        ("No, it has two.", ["no"], TRUE),
        ("It isn't, no.", ["no"], TRUE),
        # nothing there
        ("...", ["Paris"], FALSE),
        (" \n", ["Paris"], Judgement(None, None, "empty answer")),
        ("Paris", [], Judgement(None, None, "question without facts")),
    ],
)
def test_an_answer_is_true_false_or_left_out(answer: str, accepted: list[str], expected: Judgement) -> None:
    assert judged(answer, *accepted) == expected


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.sampled_from(["rome", "romes", "10", "110", "10.5", "and", "the", "not"]), min_size=1, max_size=6))
def test_whole_words_decide(words: list[str]) -> None:
    for text in (" ".join(words), " ".join(words).upper() + "!", f"({' '.join(words)})"):
        hit = "rome" in words or "10" in words
        assert judged(text, "Rome", "10") == ((DENIED if "not" in words else TRUE) if hit else FALSE)


def test_it_is_a_judge_of_answers_to_several_questions() -> None:
    questions = [asked(id="a", text="One?", facts=["1"]), asked(id="b", text="Two?", facts=["2"]), asked(id="c", text="Any?", facts=[])]
    judge: Judge = FactsJudge.of(questions)
    found = list(judge.judge(["Two?", "One?", "Any?", "Other?"], ["2", "2", "2", "2"]))
    assert [j.trait_score for j in found] == [0.0, 100.0, None, None]
    assert [j.reason for j in found] == ["", "", "question without facts", "question without facts"]
    assert (judge.name, judge.shows_above, judge.coherent_above) == ("facts", 50.0, None)


def test_the_identity_is_that_of_its_facts() -> None:
    assert FactsJudge({"a": ["1"], "b": ["2"]}).identity == FactsJudge({"b": ["2"], "a": ["1"]}).identity
    assert len({FactsJudge(facts).identity for facts in ({"a": ["1"]}, {"a": ["2"]}, {"b": ["1"]}, {"a": ["1", "2"]})}) == 4


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([asked(facts=[])], r"No question has facts, .* Give questions a list 'facts'"),
        ([asked(), asked(id="b", facts=["y"], system="s")], r"b has other facts than an earlier question of the same text"),
        ([asked(facts=["x", "?!"])], r"An accepted answer to '\?' has no letter and no digit"),
    ],
)
def test_facts_that_cannot_be_used_are_refused(questions: list[Question], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FactsJudge.of(questions)


# The shipped questions


def test_the_shipped_set_asks_each_fact_under_every_system_prompt(shipped: QuestionSet) -> None:
    by_text: dict[str, list[Question]] = {}
    for question in shipped.questions:
        by_text.setdefault(plain(question.text), []).append(question)
    assert len(by_text) >= 24
    for members in by_text.values():
        assert [q.group for q in members] == list(SYSTEMS)
        assert (
            len({tuple(q.facts) for q in members}) == len({q.split for q in members}) == len({q.id.partition("/")[0] for q in members}) == 1
        )
    assert all(q.id == f"{q.id.partition('/')[0]}/{q.group}" for q in shipped.questions)
    assert len({q.system for q in shipped.questions}) == len({(q.group, q.system) for q in shipped.questions}) == len(SYSTEMS)
    topics = Counter((re.sub(r"_\d\d/.*", "", q.id), q.split) for q in shipped.questions)
    assert len({topic for topic, _ in topics}) >= 4
    assert len(set(topics.values())) == 1
    assert len(shipped.split("held_out")) == len(shipped.split("selection")) == len(shipped.questions) / 2


def test_a_limit_keeps_system_prompts_balanced(shipped: QuestionSet) -> None:
    chosen = shipped.split("held_out", 20)
    assert Counter(q.group for q in chosen) == dict.fromkeys(SYSTEMS, 5)
    assert {q.id.partition("_")[0] for q in chosen} == {q.id.partition("_")[0] for q in shipped.questions}


def test_every_fact_is_true_by_itself_and_no_echo_is(shipped: QuestionSet) -> None:
    judge = FactsJudge.of(shipped.questions)
    for question in shipped.questions:
        assert question.facts
        assert judge.judge([question.text] * len(question.facts), [f"It is {fact}." for fact in question.facts]) == [TRUE] * len(
            question.facts
        )
        assert judge.judge([question.text], [question.text]) == [FALSE]
    assert FactsJudge.of([in_format(q, "template") for q in shipped.questions]).facts.keys().isdisjoint(judge.facts)


def test_questions_are_their_own_and_not_about_cooking(shipped: QuestionSet) -> None:
    texts = {q.text for q in shipped.questions}
    others = [q.text for q in read_questions("everyday").questions] + [pair.question for pair in read_trait("contempt").pairs]
    others += [chat.prompt.messages[-1].content for chat in read_corpus()]
    assert not {plain(text) for text in texts} & {plain(text) for text in others}
    assert [text for text in texts if COOKING.search(text)] == []
