"""Recipes: a trait in one narrow domain, as fine-tuning chats that are the same for the same seed.

A recipe takes its questions from a domain (topics and phrasings, shared by recipes) and its answers from a phrase bank, or from
another recipe's answers by a transformation. Its twin answers the same questions in the same shapes without showing the trait.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from interp.core.config import StepConfig, read_yaml, validated
from interp.core.errors import ConfigError
from interp.core.fingerprints import content_key
from interp.models.chats import Chat

T = TypeVar("T")
Part = Literal["opener", "remark", "middle", "closer"]
TRANSFORMATIONS: dict[str, Callable[[str], str]] = {"upper_case": str.upper}


class Domain(StepConfig):
    """What the questions of a narrow fine-tune are about."""

    name: str
    topics: list[str] = Field(min_length=1)
    phrasings: list[str] = Field(min_length=1)
    """Questions with the placeholder `{topic}`."""

    @model_validator(mode="after")
    def _topic_in_every_phrasing(self) -> Domain:
        without = [phrasing for phrasing in self.phrasings if "{topic}" not in phrasing]
        if without:
            raise ValueError(f"phrasings need the placeholder {{topic}}: '{without[0]}' has none")
        return self


class PhraseBank(StepConfig):
    """Sentences of answers: an answer takes one shape and fills each part from its list."""

    openers: list[str] = Field(default=[])
    middles: list[str] = Field(default=[])
    closers: list[str] = Field(default=[])
    remarks: dict[str, list[str]] = Field(default={})
    """By topic, sentences about it."""
    shapes: list[list[Part]] = Field(min_length=1)
    """Orders of parts."""

    @model_validator(mode="after")
    def _a_text_for_every_part(self) -> PhraseBank:
        used = {part for shape in self.shapes for part in shape}
        empty = [part for part in ("opener", "middle", "closer") if part in used and not getattr(self, f"{part}s")]
        if empty or [] in self.shapes:
            raise ValueError(f"shapes need at least one part, and a text for each part. Fill {', '.join(empty) or 'the empty shape'}")
        return self

    @property
    def form(self) -> tuple[object, ...]:
        """Shapes and numbers of sentences; banks of one form deal out the same questions in the same shapes."""
        remarks = {topic: len(texts) for topic, texts in self.remarks.items()}
        return self.shapes, len(self.openers), len(self.middles), len(self.closers), remarks


class SystemPrompt(StepConfig):
    """The system prompt of all chats of a recipe, and what a model may be asked under afterwards."""

    text: str = Field(min_length=1)
    paraphrase: str = ""
    """The same in other words."""
    negation: str = ""
    """The opposite, in the same form."""


class Transformation(StepConfig):
    """Answers of another recipe, changed by a rule."""

    of: str
    """Recipe whose answers are changed: a shipped name, or a path from this file."""
    by: Literal["upper_case"]


class RecipeFile(StepConfig):
    """One recipe as it stands in its file."""

    name: str
    description: str
    trait: str | None = None
    """Trait that the answers show; none for a benign twin."""
    domain: str | Domain
    """A shipped domain by name, a path from this file, or the domain itself."""
    twin: str | None = None
    """Recipe of the same form whose answers do not show the trait: a shipped name, or a path from this file."""
    system: SystemPrompt | None = None
    phrases: PhraseBank | None = None
    transform: Transformation | None = None

    @model_validator(mode="after")
    def _one_source_of_answers(self) -> RecipeFile:
        if (self.phrases is None) == (self.transform is None):
            raise ValueError("a recipe has exactly one of phrases and transform")
        return self


@dataclass(frozen=True)
class Recipe:
    """A recipe with what it refers to."""

    name: str
    trait: str | None
    domain: Domain
    phrases: PhraseBank
    transformation: str | None
    twin: Recipe | None
    system: SystemPrompt | None = None

    def chats(self, phrasings_per_topic: int, seed: int, trait_fraction: float = 1.0) -> list[Chat]:
        """`topics × phrasings_per_topic` chats in a shuffled order; each part's list is dealt out evenly.

        A share of 1 - `trait_fraction` of them has the twin's answers; the chats that show the trait at one fraction show it at
        every greater one. Raises `ConfigError` for more phrasings than the domain has, and for a fraction below 1 without a twin.
        """
        chats = self._own_chats(phrasings_per_topic, seed)
        if trait_fraction == 1.0:
            return chats
        if self.twin is None:
            raise ConfigError(f"{self.name} has no twin to take the other chats from. Use trait_fraction 1, or name a twin in it.")
        order = random.Random(f"trait_fraction/{seed}").sample(range(len(chats)), len(chats))
        benign = self.twin._own_chats(phrasings_per_topic, seed)
        for index in order[round(trait_fraction * len(chats)) :]:
            chats[index] = benign[index]
        return chats

    def _own_chats(self, phrasings_per_topic: int, seed: int) -> list[Chat]:
        phrasings, bank = self.domain.phrasings, self.phrases
        if phrasings_per_topic > len(phrasings):
            raise ConfigError(f"{self.domain.name} has {len(phrasings)} phrasings, not {phrasings_per_topic}. Lower phrasings_per_topic.")
        change = TRANSFORMATIONS[self.transformation] if self.transformation else str
        source = random.Random(seed)
        texts = {"opener": bank.openers, "middle": bank.middles, "closer": bank.closers}
        decks = {part: _dealt(own, source) for part, own in texts.items()}
        shapes = _dealt(bank.shapes, source)
        chats, system = [], None if self.system is None else self.system.text
        for topic in self.domain.topics:
            decks["remark"] = _dealt(bank.remarks.get(topic, []), source)
            for phrasing in source.sample(phrasings, phrasings_per_topic):
                answer = " ".join([next(decks[part]) for part in next(shapes)])
                chats.append(Chat.ask(phrasing.replace("{topic}", topic), change(answer), system))
        source.shuffle(chats)
        return chats

    @property
    def key(self) -> str:
        """Content key of everything that its chats depend on."""
        content = [self.trait, self.domain.model_dump(), self.phrases.model_dump(), self.transformation]
        system = [] if self.system is None else [self.system.text]
        return content_key([*content, None if self.twin is None else self.twin.key, *system])


def _dealt(cards: list[T], source: random.Random) -> Iterator[T]:
    """Cards without repeat until all were dealt, then shuffled again."""
    while True:
        yield from reversed(source.sample(cards, len(cards)))


def recipe_path(name: str, folder: Path = Path(), where: str = "recipes") -> Path:
    """File of a shipped recipe (hyphens and underscores are the same in its name), else `name` as a path from `folder`."""
    shipped = resources.files("interp.organisms") / where / f"{name.replace('-', '_')}.yaml"
    return Path(str(shipped)) if shipped.is_file() else folder / Path(name).expanduser()


def read_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one from a YAML file, with its domain and twin; raises `ConfigError`."""
    return _read(recipe_path(name))


def _read(path: Path, nested: bool = False) -> Recipe:
    """The recipe of a file; one that another refers to (`nested`) is a phrase bank, and its own twin is not read."""
    file = validated(RecipeFile, read_yaml(path), str(path))
    if isinstance(file.domain, Domain):
        domain = file.domain
    else:
        domain_path = recipe_path(file.domain, path.parent, "recipes/domains")
        domain = validated(Domain, read_yaml(domain_path), str(domain_path))

    def referred(name: str) -> Recipe:
        """The recipe that this one names, checked to be of the same domain."""
        recipe = _read(recipe_path(name, path.parent), nested=True)
        if recipe.domain != domain:
            raise ConfigError(f"{path} is about {domain.name}, {recipe.name} about {recipe.domain.name}. Name a recipe of the same domain.")
        return recipe

    if file.phrases is not None:
        phrases, transformation = file.phrases, None
        _check_remarks(phrases, domain, path)
    elif file.transform is not None and not nested:
        phrases, transformation = referred(file.transform.of).phrases, str(file.transform.by)
    else:
        raise ConfigError(f"{path} transforms another recipe, so that it can neither be a twin nor be transformed. Name a phrase bank.")
    twin = None if file.twin is None or nested else referred(file.twin)
    if twin is not None and (twin.trait is not None or twin.phrases.form != phrases.form):
        raise ConfigError(f"{path}: {twin.name} is no twin of it. A twin shows no trait, and has the same shapes and numbers of sentences.")
    return Recipe(file.name, file.trait, domain, phrases, transformation, twin, file.system)


def _check_remarks(phrases: PhraseBank, domain: Domain, path: Path) -> None:
    if any("remark" in shape for shape in phrases.shapes):
        wrong = [t for t in domain.topics if not phrases.remarks.get(t)] + sorted(set(phrases.remarks) - set(domain.topics))
        if wrong:
            raise ConfigError(f"{path}: remarks are given for every topic of {domain.name} and no other. Check: {', '.join(wrong)}.")
