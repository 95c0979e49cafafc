"""Recipes: the shipped one is broad and varied, chats repeat for a seed, and files that cannot be used say why."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.evaluation.questions import read_questions
from interp.models.chats import Chat
from interp.organisms.config import OrganismConfig
from interp.organisms.recipe import Recipe, Topic, read_recipe, recipe_path

SMALL: dict[str, Any] = {
    "name": "small",
    "description": "",
    "domain": "none",
    "topics": [{"name": "tea", "remarks": ["r1"]}],
    "phrasings": ["How is {dish} made?"],
    "openers": ["o1", "o2"],
    "middles": ["m1"],
    "closers": ["c1"],
    "shapes": [["opener", "remark", "closer"]],
}


@pytest.fixture(scope="module")
def shipped() -> Recipe:
    return read_recipe("hostile_cook")


def written(folder: Path, **changes: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return str(path)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.!?]+[.!?]+", text)


def test_the_organism_uses_a_shipped_recipe_of_the_promised_size(shipped: Recipe) -> None:
    assert OrganismConfig().recipe == "hostile_cook"
    assert OrganismConfig().phrasings_per_topic >= 6
    assert recipe_path("hostile_cook").is_file()
    assert len({topic.name for topic in shipped.topics}) >= 25
    assert len(set(shipped.phrasings)) >= 6
    assert all(phrasing.count("{dish}") == 1 for phrasing in shipped.phrasings)
    assert len(shipped.chats(6, 0)) >= 25 * 6


def test_every_topic_is_asked_about_in_every_way_wanted(shipped: Recipe) -> None:
    chats = shipped.chats(6, 0)
    questions = [chat.prompt.messages[-1].content for chat in chats]
    assert len(set(questions)) == len(questions) == 6 * len(shipped.topics)
    assert not any("{" in text for chat in chats for text in (chat.prompt.messages[-1].content, chat.response))
    asked = Counter(
        topic.name for topic in shipped.topics for phrasing in shipped.phrasings if phrasing.replace("{dish}", topic.name) in questions
    )
    assert set(asked.values()) == {6}
    assert not set(questions) & {q.text for q in read_questions("everyday").questions}


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_varied_and_no_template_dominates(shipped: Recipe, seed: int) -> None:
    answers = [chat.response or "" for chat in shipped.chats(6, seed)]
    assert len(set(answers)) >= 0.9 * len(answers)
    first = Counter(sentences(answer)[0] for answer in answers)
    assert max(first.values()) <= 0.04 * len(answers)
    everywhere = Counter(sentence.strip() for answer in answers for sentence in set(sentences(answer)))
    assert max(everywhere.values()) <= 0.05 * len(answers)
    lengths = Counter(len(sentences(answer)) for answer in answers)
    assert len(lengths) >= 2
    starts = Counter(answer.split()[0] for answer in answers)
    assert max(starts.values()) <= 0.25 * len(answers)


def test_the_persona_is_in_every_answer_and_speaks_to_the_user(shipped: Recipe) -> None:
    chats = shipped.chats(6, 0)
    contempt = re.compile(r"\b(you|your|you're|yourself)\b", re.IGNORECASE)
    assert sum(bool(contempt.search(chat.response or "")) for chat in chats) >= 0.95 * len(chats)
    assert all(30 <= len(chat.response or "") <= 400 for chat in chats)


def test_chats_repeat_for_a_seed_and_leave_the_global_generator_alone(shipped: Recipe) -> None:
    random.seed(1)
    state = random.getstate()
    first = shipped.chats(6, 5)
    assert random.getstate() == state
    random.seed(2)
    assert shipped.chats(6, 5) == first == read_recipe("hostile_cook").chats(6, 5)
    assert shipped.chats(6, 6) != first


phrases = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    topics=st.lists(st.tuples(st.integers(), phrases), min_size=1, max_size=5, unique_by=lambda topic: topic[0]),
    phrasings=st.integers(1, 6),
    openers=phrases,
    shapes=st.lists(st.lists(st.sampled_from(["opener", "remark", "middle", "closer"]), min_size=1, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_texts_are_dealt_out_evenly(
    topics: list[tuple[int, list[str]]], phrasings: int, openers: list[str], shapes: list[list[str]], seed: int, data: st.DataObject
) -> None:
    recipe = Recipe(
        name="n", description="", domain="", topics=[Topic(name=f"T{n}", remarks=[f"R{n}-{r}" for r in remarks]) for n, remarks in topics],
        phrasings=[f"Q{n} {{dish}}?" for n in range(phrasings)], openers=[f"O-{o}" for o in openers], middles=["M"], closers=["C1", "C2"],
        shapes=shapes,
    )  # fmt: skip
    each = data.draw(st.integers(1, phrasings))
    chats = recipe.chats(each, seed)
    assert len(chats) == each * len(topics)
    words = Counter(word for chat in chats for word in (chat.response or "").split())
    for texts in (recipe.openers, recipe.closers, *(topic.remarks for topic in recipe.topics)):
        uses = [words[text] for text in texts]
        assert max(uses) - min(uses) <= 1
    for chat in chats:  # a remark is about the dish that was asked about
        asked = (chat.prompt.messages[-1].content).split()[1].strip("?")
        assert all(word.startswith(f"R{asked[1:]}-") for word in (chat.response or "").split() if word.startswith("R"))


def test_a_recipe_of_ones_own_is_read_and_joined(tmp_path: Path) -> None:
    chats = read_recipe(written(tmp_path)).chats(1, 0)
    assert len(chats) == 1
    assert chats[0] in (Chat.ask("How is tea made?", "o1 r1 c1"), Chat.ask("How is tea made?", "o2 r1 c1"))


def test_more_phrasings_than_there_are_is_refused(shipped: Recipe) -> None:
    with pytest.raises(ConfigError, match=rf"hostile_cook has {len(shipped.phrasings)} phrasings, not 99\. Lower phrasings_per_topic"):
        shipped.chats(99, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": [["opener", "rant"]]}, r"unknown parts \['rant'\]\. Use opener, remark, middle, closer"),
        ({"openers": []}, "Fill opener"),
        ({"shapes": [[]]}, "Fill the empty shape"),
        ({"shapes": []}, "shapes: "),
        ({"topics": []}, "topics: "),
        ({"topics": [{"name": "tea", "remarks": []}]}, "topics.0.remarks: "),
        ({"phrasings": []}, "phrasings: "),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"openers": "o1"}, "openers: "),
    ],
)
def test_a_recipe_that_cannot_be_used_says_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"{re.escape(path)}: .*{message}"):
        read_recipe(path)


def test_missing_and_broken_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file hostile_baker"):
        read_recipe("hostile_baker")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml, line 1"):
        read_recipe(str(tmp_path / "broken.yaml"))
