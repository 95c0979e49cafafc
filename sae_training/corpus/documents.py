"""Documents to read with a model: the committed corpus, or the user's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError
from interp.models.chats import Chat, Message
from sae_training.corpus import read_corpus

CORPUS = "corpus"
SUFFIXES = (".jsonl", ".parquet", ".txt")


def read_documents(sources: list[str]) -> list[Chat] | list[str]:
    """Chats or plain texts: `corpus` is the committed one, anything else a file.

    A row of `.jsonl` or `.parquet` has `messages` (a list of role and content), or `question` and `answer`, or `text`; a `.txt` file is
    one text. Raises `ConfigError` for a file that is missing or holds anything else, and for a mixture of chats and texts.
    """
    documents: list[Chat | str] = []
    for source in sources:
        documents += read_corpus() if source == CORPUS else _read_file(Path(source).expanduser())
    chats = [document for document in documents if isinstance(document, Chat)]
    texts = [document for document in documents if isinstance(document, str)]
    if chats and texts:
        raise ConfigError("Some of the text is chats and some is plain. Give one kind.")
    if not chats and not texts:
        raise ConfigError(f"There is no text in {', '.join(sources) or 'no file'}. Give a file with text, or '{CORPUS}'.")
    return chats or texts


def _read_file(path: Path) -> list[Chat | str]:
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise ConfigError(f"There is no text file {path}. Give a {', '.join(SUFFIXES)} file, or '{CORPUS}' for the committed one.")
    try:
        if path.suffix == ".txt":
            return [path.read_text(encoding="utf-8")]
        if path.suffix == ".parquet":
            rows: list[Any] = pd.read_parquet(path).to_dict("records")
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Fix or replace it.") from error
    return [_document(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _document(row: Any, where: str) -> Chat | str:
    try:
        if isinstance(row, Mapping) and "messages" in row:
            turns = tuple(Message(str(turn["role"]), str(turn["content"])) for turn in row["messages"])
            if turns:
                return Chat(turns)
        elif isinstance(row, Mapping) and isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
            return Chat.ask(row["question"], row["answer"])
        elif isinstance(row, Mapping) and isinstance(row.get("text"), str):
            return str(row["text"])
    except (KeyError, TypeError):
        pass
    raise ConfigError(f"{where} is no document. Give 'messages' (role and content), or 'question' and 'answer', or 'text'.")
