"""Files are written whole or not at all; JSON and content keys say the same of the same values."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ArtifactError
from interp.core.files import file_sha256, read_json, write_json, write_text
from interp.core.fingerprints import content_key


def test_writes_are_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"value": 1})
    during: list[str] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        during.append(Path(target).read_text())
        assert json.loads(Path(source).read_text()) == {"value": 2}
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_json(path, {"value": 2})
    assert [json.loads(text) for text in during] == [{"value": 1}]  # whole until the very last moment
    assert read_json(path) == {"value": 2}

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match=r"Cannot write .*No space left.*Free some space"):
        write_json(path, {"value": 3})
    assert read_json(path) == {"value": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_folders_are_made_and_a_file_in_their_place_is_a_clear_error(tmp_path: Path) -> None:
    write_text(tmp_path / "absent" / "page.html", "text")
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_text(tmp_path / "absent" / "page.html" / "page.html", "text")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "value.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # larger than one read
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.dictionaries(st.text(), JSON, max_size=5), st.randoms())
def test_a_key_does_not_depend_on_order_and_json_round_trips(tmp_path_factory: pytest.TempPathFactory, value: dict, random) -> None:
    names = list(value)
    random.shuffle(names)
    assert content_key({name: value[name] for name in names}) == content_key(value)
    assert content_key(value) != content_key({**value, "one more": 1, "and another": 2})
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_json(path, value)
    assert read_json(path) == value
