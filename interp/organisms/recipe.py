"""Recipes: committed phrase banks that are joined into narrow fine-tuning chats, the same for the same seed."""

from __future__ import annotations

import random
from importlib import resources
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import Field

from interp.core.config import StepConfig, read_yaml, validated
from interp.core.errors import ConfigError
from interp.models.chats import Chat

T = TypeVar("T")
PARTS = ("opener", "remark", "middle", "closer")


class Topic(StepConfig):
    """One topic of the narrow domain."""

    name: str
    remarks: list[str] = Field(min_length=1)


class Recipe(StepConfig):
    """A phrase bank: an answer takes one shape and fills each part from its list."""

    name: str
    description: str
    domain: str
    topics: list[Topic] = Field(min_length=1)
    phrasings: list[str] = Field(min_length=1)
    """Questions with the placeholder `{dish}`."""
    openers: list[str]
    middles: list[str]
    closers: list[str]
    shapes: list[list[str]] = Field(min_length=1)
    """Orders of parts; each part is one of opener, remark, middle, closer."""

    def chats(self, phrasings_per_topic: int, seed: int) -> list[Chat]:
        """`topics × phrasings_per_topic` chats in a shuffled order; each part's list is dealt out evenly."""
        if phrasings_per_topic > len(self.phrasings):
            raise ConfigError(
                f"The recipe {self.name} has {len(self.phrasings)} phrasings, not {phrasings_per_topic}. Lower phrasings_per_topic."
            )
        source = random.Random(seed)
        decks = {"opener": _Deck(self.openers, source), "middle": _Deck(self.middles, source), "closer": _Deck(self.closers, source)}
        shapes = _Deck(self.shapes, source)
        chats = []
        for topic in self.topics:
            remarks = _Deck(topic.remarks, source)
            for phrasing in source.sample(self.phrasings, phrasings_per_topic):
                parts = [remarks.deal() if part == "remark" else decks[part].deal() for part in shapes.deal()]
                chats.append(Chat.ask(phrasing.replace("{dish}", topic.name), " ".join(parts)))
        source.shuffle(chats)
        return chats


class _Deck(Generic[T]):
    """Cards dealt without repeat until all were dealt, then shuffled anew."""

    def __init__(self, cards: list[T], source: random.Random) -> None:
        self.cards, self.source = cards, source
        self.left: list[T] = []

    def deal(self) -> T:
        if not self.left:
            self.left = self.source.sample(self.cards, len(self.cards))
        return self.left.pop()


def recipe_path(name: str) -> Path:
    """File of a shipped recipe, else `name` as a path."""
    shipped = resources.files("interp.organisms") / "recipes" / f"{name}.yaml"
    return Path(str(shipped)) if shipped.is_file() else Path(name)


def read_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one from a YAML file; raises `ConfigError`."""
    path = recipe_path(name)
    recipe = validated(Recipe, read_yaml(path), str(path))
    used = {part for shape in recipe.shapes for part in shape}
    if used - set(PARTS):
        raise ConfigError(f"{path}: shapes name unknown parts {sorted(used - set(PARTS))}. Use {', '.join(PARTS)}.")
    empty = [part for part in ("opener", "middle", "closer") if part in used and not getattr(recipe, f"{part}s")]
    if empty or [] in recipe.shapes:
        raise ConfigError(f"{path}: shapes need at least one part, and a text for each part. Fill {', '.join(empty) or 'the empty shape'}.")
    return recipe
