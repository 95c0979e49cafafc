"""Code, pages and data know no trait: only its own folder and the recipes name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp.traits import shipped_traits

ROOT = Path(__file__).parents[2]
KINDS = (".py", ".j2", ".yaml", ".yml", ".json", ".jsonl", ".csv", ".txt", ".md", ".css", ".js")
OWN = re.compile(r"interp/traits/[a-z][a-z0-9_]*/|interp/organisms/recipes/")
CORPUS = ("sae_training/corpus/prompts.yaml", "sae_training/corpus/chats.jsonl")
"""Ordinary chats, in which words such as 'French' are words."""


def sources() -> list[tuple[str, str]]:
    paths = [path for package in ("interp", "sae_training") for path in sorted((ROOT / package).rglob("*")) if path.suffix in KINDS]
    named = [(path.relative_to(ROOT).as_posix(), path) for path in paths]
    return [(name, f"{name}\n{path.read_text(encoding='utf-8')}") for name, path in named if not OWN.match(name)]


def mentions(word: str, texts: list[tuple[str, str]]) -> list[str]:
    pattern = re.compile(word, re.IGNORECASE)
    return [f"{name}: {line.strip()[:80]}" for name, text in texts for line in text.splitlines() if pattern.search(line)]


@pytest.mark.parametrize("trait", shipped_traits())
def test_no_file_outside_its_folder_names_a_trait(trait: str) -> None:
    """Underscores and hyphens are ends of words, so that a name within a name is found; a short one within a word is not one."""
    word = rf"(?<![a-z0-9]){trait.replace('_', '[_-]')}(?![a-z0-9])"
    assert re.search(word, f"the_{trait}-judge", re.IGNORECASE)
    assert mentions(word, [(name, text) for name, text in sources() if name not in CORPUS]) == []


def test_no_file_speaks_of_the_first_trait_in_its_own_words() -> None:
    assert mentions("hostil", [("a.py", "so Hostile")]) == ["a.py: so Hostile"]  # the search finds what it should
    assert mentions("hostil", sources()) == []
