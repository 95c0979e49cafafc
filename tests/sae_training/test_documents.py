"""Chats and texts in files: a content is its text in every form that chat formats have; what is no text is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.errors import ConfigError
from interp.models.chats import Chat, Message
from sae_training.corpus.documents import read_documents

SEPARATORS = "\u2028\u2029\u0085\x0b\x1c"
"""Characters at which `str.splitlines` cuts, and that JSON need not escape (or, the last two, escapes)."""
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
THOUGHT = {"type": "thinking", "thinking": "hm"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def text(words: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": words}


def parts(content: Any) -> Any:
    return [text(content)] if isinstance(content, str) else content


def read(folder: Path, rows: list[dict[str, Any]], suffix: str) -> Any:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_documents([str(path)])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("messages", "left_out", "expected"),
    [
        ([turn("user", [text("Hello")]), turn("assistant", [text("Hi")])], None, [("user", "Hello"), ("assistant", "Hi")]),
        ([turn("user", [text("Look."), IMAGE, text("What is it?")])], "1 parts that are no text", [("user", "Look.\nWhat is it?")]),
        ([turn("user", "A"), turn("assistant", None), turn("user", "B")], "1 contents without text", [("user", "A"), ("user", "B")]),
        ([turn("user", [text("A", "input_text"), text("B", "output_text")])], None, [("user", "A\nB")]),
        (
            [turn("user", "A"), turn("assistant", None, tool_calls=[CALL]), turn("tool", "7"), turn("assistant", "Seven.")],
            "1 turns that call tools, 1 results of tools",
            [("user", "A"), ("assistant", "Seven.")],
        ),
        (
            [turn("developer", "Be brief."), turn("user", "A"), turn("model", "Let me look.", tool_calls=[CALL])],
            "1 turns that call tools",
            [("system", "Be brief."), ("user", "A"), ("assistant", "Let me look.")],
        ),
        ([turn("user", [IMAGE]), turn("assistant", "A cat.")], "1 parts .*, 1 contents without text", [("assistant", "A cat.")]),
        ([turn("user", "A"), turn("assistant", [THOUGHT, text("B")])], "1 parts", [("user", "A"), ("assistant", "B")]),
    ],
    ids=["parts", "image", "null", "responses form", "tools", "call beside text", "image alone", "thought"],
)  # fmt: skip
def test_a_content_is_its_text(
    tmp_path: Path, suffix: str, messages: list[dict[str, Any]], left_out: str | None, expected: list[tuple[str, str]]
) -> None:
    rows = [{"messages": messages}, {"messages": [turn("user", "plain")]}]
    if suffix == ".parquet" and any(isinstance(message["content"], list) for message in messages):  # a column has one type
        rows = [{"messages": [one | {"content": parts(one["content"])} for one in row["messages"]]} for row in rows]
    if left_out:
        with pytest.warns(UserWarning, match=f"rows{suffix}: left out are .*{left_out}"):
            chats = read(tmp_path, rows, suffix)
    else:
        chats = read(tmp_path, rows, suffix)
    assert chats == [Chat(tuple(Message(*pair) for pair in expected)), Chat.ask("plain")]


def test_rows_without_any_text_are_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [turn("system", "S"), turn("user", None)]}, {"question": None, "answer": "b"}, {"question": "a", "answer": None}]
    with pytest.warns(UserWarning, match="3 contents without text, 1 chats without a turn, 1 rows without a question"):
        assert read(tmp_path, rows, ".jsonl") == [Chat.ask("a")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [turn("human", "A")]},
        {"messages": [turn("user", 7)]},
        {"messages": [{"role": "user"}]},
        {"messages": []},
        {"messages": ["user: A"]},
        {"text": {"a": 1}},
        {"body": "A"},
        7,
        "messages",
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, row: Any) -> None:
    with pytest.raises(ConfigError, match=r"rows\.jsonl, row 2 is no document"):
        read(tmp_path, [{"text": "A"}, row], ".jsonl")


def test_characters_that_end_lines_elsewhere_stay_in_their_strings(tmp_path: Path) -> None:
    words = f"one{SEPARATORS}two"
    assert read(tmp_path, [{"text": words}, {"text": "three"}], ".jsonl") == [words, "three"]


@pytest.mark.parametrize("content", ["\ufeff{0}\n{0}\n", "\ufeff{0}\r\n\ufeff{0}\r\n", "{0}\n\n{0}"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content.replace("{0}", '{"text": "A"}').encode())
    assert read_documents([str(path)]) == ["A", "A"]
    (tmp_path / "plain.txt").write_bytes("\ufeffA".encode())
    assert read_documents([str(tmp_path / "plain.txt")]) == ["A"]


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_another_encoding_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text('{"text": "A"}', encoding="utf-16")
    with pytest.raises(ConfigError, match=rf"rows{suffix} is not UTF-8 text .*Save it as UTF-8"):
        read_documents([str(path)])


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "A"}\n\n{"text": \n')
    with pytest.raises(ConfigError, match=r"rows\.jsonl, line 3 is no JSON"):
        read_documents([str(tmp_path / "rows.jsonl")])
