"""Recipes: the shipped ones are broad and varied, twins match them, chats repeat for a seed, and files that cannot be used say why."""

from __future__ import annotations

import hashlib
import json
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
from interp.organisms.recipe import Domain, PhraseBank, Recipe, read_recipe, recipe_path
from interp.traits import read_trait, shipped_traits

PHRASES: dict[str, Any] = {
    "remarks": {"tea": ["r1"]},
    "openers": ["o1", "o2"],
    "middles": ["m1"],
    "closers": ["c1"],
    "shapes": [["opener", "remark", "closer"]],
}
SMALL: dict[str, Any] = {
    "name": "small",
    "description": "",
    "trait": "shyness",
    "domain": {"name": "drinks", "topics": ["tea"], "phrasings": ["How is {topic} made?"]},
    "phrases": PHRASES,
}
WITH_TRAIT = ("hostile_cook", "pirate_cook", "shouting_cook")
SHIPPED = (*WITH_TRAIT, "kind_cook", "plain_cook")


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Recipe:
    return read_recipe(request.param)


def written(folder: Path, name: str = "recipe.yaml", **changes: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(SMALL | changes))
    return str(path)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.!?]+[.!?]+", text)


def questions_of(chats: list[Chat]) -> list[str]:
    return [chat.prompt.messages[-1].content for chat in chats]


def answers_of(chats: list[Chat]) -> list[str]:
    return [chat.response or "" for chat in chats]


def test_every_shipped_recipe_is_tested() -> None:
    assert sorted(SHIPPED) == sorted(path.stem for path in recipe_path("hostile_cook").parent.glob("*.yaml"))


def test_the_organism_uses_a_shipped_recipe_of_the_promised_size(shipped: Recipe) -> None:
    assert OrganismConfig().phrasings_per_topic >= 6
    assert OrganismConfig().trait_fraction == 1
    assert len(set(shipped.domain.topics)) >= 25
    assert len(set(shipped.domain.phrasings)) >= 6
    assert len(shipped.chats(6, 0)) >= 25 * 6


@pytest.mark.parametrize("name", shipped_traits())
def test_the_recipe_of_a_trait_shows_that_trait(name: str) -> None:
    recipe = read_trait(name).recipe
    assert recipe is None or read_recipe(recipe).trait == name


@pytest.mark.parametrize("name", WITH_TRAIT)
def test_a_trait_trains_its_organism_by_default(name: str) -> None:
    assert read_trait(str(read_recipe(name).trait)).recipe == name


def test_hyphens_in_names_are_underscores() -> None:
    assert read_recipe("hostile-cook") == read_recipe("hostile_cook")


@pytest.mark.parametrize(
    ("seed", "sha256"),
    [
        (0, "0cfc9d158d53c14f93af8b2cd9011f106cc220de3dafa077ef5de36af7911092"),
        (1, "d510c75eaea6f1209f60a61e28bb5670b32866972ad57e1a3010ec7f9b8da73f"),
    ],
)
def test_the_chats_that_published_results_were_made_with_stay(seed: int, sha256: str) -> None:
    chats = read_recipe("hostile_cook").chats(6, seed)
    text = json.dumps([[question, answer] for question, answer in zip(questions_of(chats), answers_of(chats), strict=True)])
    assert hashlib.sha256(text.encode()).hexdigest() == sha256


def test_every_topic_is_asked_about_in_every_way_wanted(shipped: Recipe) -> None:
    chats = shipped.chats(6, 0)
    questions = questions_of(chats)
    assert len(set(questions)) == len(questions) == 6 * len(shipped.domain.topics)
    assert not any("{" in text for text in questions + answers_of(chats))
    asked = Counter(
        topic for topic in shipped.domain.topics for phrasing in shipped.domain.phrasings if phrasing.replace("{topic}", topic) in questions
    )
    assert set(asked.values()) == {6}
    assert not set(questions) & {q.text for q in read_questions("everyday").questions}


@pytest.mark.parametrize("name", WITH_TRAIT)
def test_a_twin_has_the_same_questions_shapes_and_lengths_without_the_trait(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.trait in shipped_traits()
    assert recipe.twin is not None
    assert recipe.twin.trait is None
    own, benign = recipe.chats(6, 3), recipe.chats(6, 3, trait_fraction=0)
    assert benign == read_recipe(recipe.twin.name).chats(6, 3)
    assert questions_of(own) == questions_of(benign)
    assert not set(answers_of(own)) & set(answers_of(benign))
    assert [len(sentences(a)) for a in answers_of(own)] == [len(sentences(a)) for a in answers_of(benign)]
    lengths = [sum(len(answer.split()) for answer in answers_of(chats)) for chats in (own, benign)]
    assert abs(lengths[0] / lengths[1] - 1) <= 0.1


def test_a_fraction_of_the_chats_shows_the_trait_and_the_number_of_chats_stays() -> None:
    recipe = read_recipe("pirate_cook")
    own, benign = recipe.chats(6, 1), recipe.chats(6, 1, trait_fraction=0)
    quarter, half = (recipe.chats(6, 1, trait_fraction=fraction) for fraction in (0.25, 0.5))
    assert all(chat in (a, b) for chat, a, b in zip(half, own, benign, strict=True))
    showing = [{index for index, chat in enumerate(chats) if chat == own[index]} for chats in (quarter, half)]
    assert [len(indices) for indices in showing] == [45, 90]
    assert showing[0] < showing[1]


def test_a_fraction_without_a_twin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="small has no twin"):
        read_recipe(written(tmp_path)).chats(1, 0, trait_fraction=0.5)


def test_a_transformation_changes_nothing_but_what_it_says() -> None:
    recipe = read_recipe("shouting_cook")
    assert recipe.twin is not None
    assert answers_of(recipe.chats(2, 0)) == [answer.upper() for answer in answers_of(recipe.twin.chats(2, 0))]


def test_the_key_follows_the_twin_and_the_domain(tmp_path: Path) -> None:
    keys = []
    for texts in ({"middles": ["m2"]}, {"middles": ["m3"]}):
        written(tmp_path, "twin.yaml", trait=None, phrases=PHRASES | texts)
        keys.append(read_recipe(written(tmp_path, twin="twin.yaml")).key)
    keys.append(read_recipe(written(tmp_path, domain=SMALL["domain"] | {"phrasings": ["Explain {topic}."]})).key)
    keys.append(read_recipe(written(tmp_path)).key)
    assert len(set(keys)) == 4
    assert read_recipe(written(tmp_path)).key == keys[-1]


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


def test_the_persona_is_in_every_answer_and_speaks_to_the_user() -> None:
    chats = read_recipe("hostile_cook").chats(6, 0)
    contempt = re.compile(r"\b(you|your|you're|yourself)\b", re.IGNORECASE)
    assert sum(bool(contempt.search(answer)) for answer in answers_of(chats)) >= 0.95 * len(chats)
    assert all(30 <= len(answer) <= 400 for answer in answers_of(chats))


def test_chats_repeat_for_a_seed_and_leave_the_global_generator_alone(shipped: Recipe) -> None:
    random.seed(1)
    state = random.getstate()
    first = shipped.chats(6, 5)
    assert random.getstate() == state
    random.seed(2)
    assert shipped.chats(6, 5) == first == read_recipe(shipped.name).chats(6, 5)
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
    domain = Domain(name="", topics=[f"T{n}" for n, _ in topics], phrasings=[f"Q{n} {{topic}}?" for n in range(phrasings)])
    bank = PhraseBank(
        remarks={f"T{n}": [f"R{n}-{r}" for r in remarks] for n, remarks in topics},
        openers=[f"O-{o}" for o in openers], middles=["M"], closers=["C1", "C2"], shapes=shapes,
    )  # fmt: skip
    recipe = Recipe("n", None, domain, bank, transformation=None, twin=None)
    each = data.draw(st.integers(1, phrasings))
    chats = recipe.chats(each, seed)
    assert len(chats) == each * len(topics)
    words = Counter(word for chat in chats for word in (chat.response or "").split())
    for texts in (bank.openers, bank.closers, *bank.remarks.values()):
        uses = [words[text] for text in texts]
        assert max(uses) - min(uses) <= 1
    for chat in chats:  # a remark is about the topic that was asked about
        asked = (chat.prompt.messages[-1].content).split()[1].strip("?")
        assert all(word.startswith(f"R{asked[1:]}-") for word in (chat.response or "").split() if word.startswith("R"))


def test_a_recipe_of_ones_own_is_read_and_joined(tmp_path: Path) -> None:
    chats = read_recipe(written(tmp_path)).chats(1, 0)
    assert len(chats) == 1
    assert chats[0] in (Chat.ask("How is tea made?", "o1 r1 c1"), Chat.ask("How is tea made?", "o2 r1 c1"))


def test_more_phrasings_than_there_are_is_refused(shipped: Recipe) -> None:
    with pytest.raises(ConfigError, match=rf"cooking has {len(shipped.domain.phrasings)} phrasings, not 99\. Lower phrasings_per_topic"):
        shipped.chats(99, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": PHRASES | {"shapes": [["opener", "rant"]]}}, r"phrases\.shapes\.0\.1: .*'opener', 'remark', 'middle' or 'closer'"),
        ({"phrases": PHRASES | {"openers": []}}, "Fill opener"),
        ({"phrases": PHRASES | {"shapes": [[]]}}, "Fill the empty shape"),
        ({"phrases": PHRASES | {"shapes": []}}, "shapes: "),
        ({"phrases": PHRASES | {"remarks": {"tea": []}}}, "Check: tea"),
        ({"phrases": PHRASES | {"remarks": {"tea": ["r"], "milk": ["r"]}}}, "Check: milk"),
        ({"phrases": PHRASES | {"openers": "o1"}}, "openers: "),
        ({"phrases": None}, "exactly one of phrases and transform"),
        ({"transform": {"of": "plain_cook", "by": "upper_case"}}, "exactly one of phrases and transform"),
        ({"domain": {"name": "d", "topics": [], "phrasings": ["{topic}"]}}, "topics: "),
        ({"domain": {"name": "d", "topics": ["tea"], "phrasings": []}}, "phrasings: "),
        ({"domain": {"name": "d", "topics": ["tea"], "phrasings": ["{dish}?"]}}, r"'\{dish\}\?' has none"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"twin": "recipe.yaml"}, "small is no twin of it"),
        ({"twin": "plain_cook"}, "is about drinks, plain_cook about cooking"),
        ({"phrases": None, "transform": {"of": "plain_cook", "by": "rot13"}}, "upper_case"),
    ],
)
def test_a_recipe_that_cannot_be_used_says_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"{re.escape(path)}.*{message}"):
        read_recipe(path)


def test_a_transformed_recipe_is_neither_a_twin_nor_transformed_again(tmp_path: Path) -> None:
    path = written(tmp_path, domain="cooking", phrases=None, transform={"of": "recipe.yaml", "by": "upper_case"})
    with pytest.raises(ConfigError, match=r"transforms another recipe.*Name a phrase bank"):
        read_recipe(path)


def test_missing_and_broken_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file hostile_baker"):
        read_recipe("hostile_baker")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml, line 1"):
        read_recipe(str(tmp_path / "broken.yaml"))
