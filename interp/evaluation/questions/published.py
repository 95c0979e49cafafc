"""Read question files in the form of the published evaluation of narrow fine-tunes (Betley et al. 2025, arXiv:2502.17424).

A file is a YAML list; an entry has an id, one or more paraphrases, and may have a system prompt. What its entries say of samples and
of a judge is for the code they were published with, and is left alone here: name samples and judge yourself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from interp.core.config import StepConfig, read_any_yaml, validated
from interp.core.errors import ConfigError
from interp.core.vocabulary import Split
from interp.evaluation.questions.question import Question

FORMAT = r"_(json|template)$"


class Entry(StepConfig):
    """One entry of a published file."""

    id: str
    """Name of the question; a suffix `_json` or `_template` names its format."""
    type: str = "free_form"
    """How the authors' code judged it."""
    paraphrases: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Wordings, each asked as a question of its own."""
    system: str = ""
    """System prompt."""
    split: Split = "held_out"
    """Ours, not in the published form: `selection` questions choose, `held_out` ones only measure."""
    samples_per_paraphrase: int | None = None
    """Answers to each that the authors drew."""
    judge: str | None = None
    """Model that the authors judged with."""
    judge_prompts: dict[str, str] = Field(default_factory=dict)
    """What the authors asked it."""


def published_questions(entries: list[Any], path: Path) -> list[Question]:
    """All wordings of all entries, held out unless they say otherwise. Raises `ConfigError` naming the entry that cannot be read."""
    questions = []
    for number, values in enumerate(entries, 1):
        given = values if isinstance(values, dict) else {"entry": values}
        entry = validated(Entry, given, f"{path}, entry {number} ({given.get('id', 'without an id')})")
        name, _, form = entry.id.rpartition("_") if re.search(FORMAT, entry.id) else (entry.id, "", "plain")
        shared = {
            "group": re.sub(r"^\d+_|_\d+$", "", name),  # `12_vulnerable_user_3` belongs to `vulnerable_user`
            "split": entry.split,
            "system": entry.system,
            "cluster": name,
            "format": form,
        }
        for place, text in enumerate(entry.paraphrases, 1):
            own = entry.id if len(entry.paraphrases) == 1 else f"{entry.id}/{place}"
            questions.append(validated(Question, {"id": own, "text": text, **shared}, str(path)))
    return questions


def judge_prompts(path: Path) -> dict[str, str]:
    """What a judge is asked, by name: those of a published file, whose entries all agree on them, or a mapping of trait and coherence.

    Raises `ConfigError` for a file without them, or with several.
    """
    content = read_any_yaml(path)
    entries = content if isinstance(content, list) else [{"judge_prompts": content}]
    found = [entry["judge_prompts"] for entry in entries if isinstance(entry, dict) and entry.get("judge_prompts")]
    if not found or not all(isinstance(prompts, dict) for prompts in found):
        raise ConfigError(
            f"{path} holds no judge prompts. Give a mapping of 'aligned' and 'coherent', or a published file with judge_prompts."
        )
    if any(prompts != found[0] for prompts in found):
        raise ConfigError(f"{path} holds several sets of judge prompts. Give a file with one mapping of 'aligned' and 'coherent'.")
    return {str(name): prompt for name, prompt in found[0].items()}
