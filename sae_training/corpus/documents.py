"""Documents to read with a model: the committed corpus, or the user's files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.core.errors import ConfigError, reason_of
from interp.core.files import read_jsonl, read_text
from interp.models.chats import Chat, Message
from sae_training.corpus import read_corpus

CORPUS = "corpus"
SUFFIXES = (".jsonl", ".parquet", ".txt")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "model": "assistant"}
"""Roles of turns, and what they are to a template."""
CALLS, RESULTS = ("tool_calls", "function_call"), ("tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text", None)
"""Types of parts that hold text, in both of OpenAI's forms."""


def read_documents(sources: list[str]) -> list[Chat] | list[str]:
    """Chats or plain texts: `corpus` is the committed one, anything else a file.

    A row of `.jsonl` or `.parquet` has `messages` (a list of role and content), or `question` and `answer`, or `text`; a `.txt` file is
    one text. A content is text or a list of parts, whose texts are joined by line breaks. Turns without text, tools' calls and results,
    and parts that are no text are left out, with a warning that counts them. Raises `ConfigError` for a file that is missing or holds
    anything else, and for a mixture of chats and texts.
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
    if path.suffix == ".txt":
        return [read_text(path)]
    try:
        rows = pd.read_parquet(path).to_dict("records") if path.suffix == ".parquet" else read_jsonl(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}. Fix or replace it.") from error
    left_out: Counter[str] = Counter()
    documents = [_document(row, f"{path}, row {number}", left_out) for number, row in enumerate(rows, 1)]
    if left_out:
        warnings.warn(f"{path}: left out are {', '.join(f'{n} {what}' for what, n in left_out.items())}.", UserWarning, stacklevel=4)
    return [document for document in documents if document is not None]


def _document(row: Any, where: str, left_out: Counter[str]) -> Chat | str | None:
    """The chat or text of a row, None where it has none; adds to `left_out` what is not read, by kind."""
    try:
        if "messages" in row and not _absent(row["messages"]) and len(row["messages"]):
            turns = [_turn(turn, left_out) for turn in row["messages"]]
            chat = Chat(tuple(turn for turn in turns if turn is not None))
            if any(message.role != "system" for message in chat.messages):
                return chat
            left_out["chats without a turn"] += 1
            return None
        if "question" in row and "answer" in row:
            question, answer = (_text(row[name], left_out) for name in ("question", "answer"))
            if question is not None:
                return Chat.ask(question, answer)
            left_out["rows without a question"] += 1
            return None
        if "text" in row:
            return _text(row["text"], left_out)
    except (KeyError, TypeError):
        pass
    raise ConfigError(
        f"{where} is no document. Give 'messages' (role: system, user or assistant; content), or 'question' and 'answer', or 'text'."
    )


def _turn(turn: Mapping[str, Any], left_out: Counter[str]) -> Message | None:
    """A turn with its text; None for one without. Raises `KeyError` or `TypeError` for what is no turn."""
    if turn["role"] in RESULTS:
        left_out["results of tools"] += 1
        return None
    role = ROLES[turn["role"]]
    calls = [name for name in CALLS if not _absent(turn.get(name)) and len(turn[name])]
    if calls:
        left_out["turns that call tools"] += 1
        if _absent(turn.get("content")) or not len(turn["content"]):
            return None
    text = _text(turn["content"], left_out)
    return None if text is None else Message(role, text)


def _text(content: Any, left_out: Counter[str]) -> str | None:
    """The text of a content in any form that chat formats have; None without one. Raises `TypeError` for anything else."""
    if isinstance(content, str):
        return content
    if _absent(content):
        left_out["contents without text"] += 1
        return None
    if not isinstance(content, Sequence | np.ndarray):
        raise TypeError(f"{type(content).__name__} is no content")
    parts = [{"text": part} if isinstance(part, str) else part for part in content if isinstance(part, str | Mapping)]
    known = [part["text"] for part in parts if part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str)]
    if len(known) < len(content):
        left_out["parts that are no text"] += len(content) - len(known)
    if not known:
        left_out["contents without text"] += 1
    return "\n".join(known) if known else None


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
