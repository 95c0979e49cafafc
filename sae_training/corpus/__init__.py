"""The committed chat corpus: everyday prompts, answered by the embedded model itself (see `make.py`)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from interp.core.files import read_jsonl
from interp.models.chats import Chat


def corpus_path() -> Path:
    """The corpus file."""
    return Path(str(resources.files(__name__) / "chats.jsonl"))


def read_corpus() -> list[Chat]:
    """All chats of the corpus, in file order."""
    return [Chat.ask(row["question"], row["answer"]) for row in read_jsonl(corpus_path())]
