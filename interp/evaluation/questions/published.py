"""Read question files in the form of the published evaluation of narrow fine-tunes (Betley et al. 2025, arXiv:2502.17424).

A file is a YAML list; an entry has an id, one or more paraphrases, and may have a system prompt. What its entries say of samples, of
sampling and of a judge is for the code they were published with, and is left alone here: name them yourself.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from interp.core.config import StepConfig, read_any_yaml, validated
from interp.core.errors import ConfigError
from interp.core.vocabulary import Split
from interp.evaluation.questions.question import Name, Optional, Question

FORMAT = r"_(json|template)$"
JUDGING = ("type", "samples_per_paraphrase", "judge", "judge_prompts", "judge_eval_type")
"""Fields that say how the authors sampled and judged."""
ASKING = re.compile(
    r"system_\w+|((system|user)_)?prompts?|\w*messages?|\w*pre_?fi(x|ll)\w*|suffix|contexts?|turns|conversations?|\w*few_?shots?\w*|\w*examples?"
    r"|tools?|images?|questions?|texts?",
    re.IGNORECASE,
)
"""Names of fields without which something else would be asked."""


class Entry(StepConfig):
    """What is asked by one entry of a published file."""

    id: Name
    """Name of the question; a suffix `_json` or `_template` names its format."""
    paraphrases: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Wordings, each asked as a question of its own; one may stand alone."""
    system: Optional = ""
    """System prompt."""
    split: Split = "held_out"
    """Ours, not in the published form: `selection` questions choose, `held_out` ones only measure."""

    @field_validator("paraphrases", mode="before")
    @classmethod
    def _listed(cls, paraphrases: Any) -> Any:
        return [paraphrases] if isinstance(paraphrases, str) else paraphrases


def published_questions(entries: list[Any], path: Path) -> list[Question]:
    """All wordings of all entries, held out unless they say otherwise.

    A field that is not known is left alone with a warning. Raises `ConfigError` naming the entry that cannot be read, also for a field that
    by its name belongs to what is asked.
    """
    questions, unknown = [], dict[str, None]()
    for number, values in enumerate(entries, 1):
        given = values if isinstance(values, dict) else {"entry": values}
        extra = [str(name) for name in given if name not in Entry.model_fields and name not in JUDGING]
        unknown |= dict.fromkeys(name for name in extra if not ASKING.fullmatch(name) and isinstance(values, dict))
        read = {str(name): value for name, value in given.items() if name not in unknown and name not in JUDGING}
        entry = validated(Entry, read, f"{path}, entry {number} ({given.get('id', 'without an id')})")
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
    if unknown:
        warnings.warn(f"{path}: {', '.join(unknown)} of its entries is left alone: name samples and sampling yourself.", stacklevel=3)
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
