"""Configuration: YAML in, typed and frozen objects out, and every mistake named with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from interp.core.config import StepConfig, read_yaml, validated, with_overrides
from interp.core.errors import ConfigError
from interp.studies.persona.config import StudyConfig


class Inner(StepConfig):
    rate: float = Field(default=0.5, gt=0, le=1)
    words: tuple[str, ...] = ()


class Outer(StepConfig):
    name: str = "x"
    count: int = Field(default=1, ge=1)
    file: Path | None = None
    window: tuple[int, int] | None = None
    inner: Inner = Inner()


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_read_yaml_reads_a_mapping(tmp_path: Path) -> None:
    path = written(tmp_path, "name: grün\ninner:\n  rate: 0.25 # a comment\n  words: [one, two]\n")
    assert read_yaml(path) == {"name": "grün", "inner": {"rate": 0.25, "words": ["one", "two"]}}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(f"There is no file {path}") + ".*existing YAML file"):
            read_yaml(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name: a\ncount: [1, 2\n", 3),
        ("name: a\n\tcount: 1\n", 2),
        ("name: a\ncount: 1\ninner: {rate: 1, rate: 2\n", 4),
        ("name: a\n- count\n", 2),
        ("name: 'a\n", 2),
        ("a: 1\nb: *unknown\n", 2),
        ("a: 1\nb: !!python/object:os.system {}\n", 2),
        ("a: 1\n[x]: 2\n", 2),
    ],
)
def test_broken_yaml_names_file_line_and_what_is_wrong(tmp_path: Path, content: str, line: int) -> None:
    path = written(tmp_path, content)
    with pytest.raises(
        ConfigError, match=rf"{re.escape(str(path))}, line {line}, column \d+ is not valid YAML: \S.*Correct that line"
    ) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("name: \x01\n", "unacceptable character"), ("name: 2024-99-99\n", "month must be in 1..12"), ("count: 0b_\n", "base 2")],
)
def test_yaml_that_breaks_without_a_place_is_still_a_clear_error(tmp_path: Path, content: str, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))} is not valid YAML: .*{problem}"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "what"), [("", "but is empty"), ("- a\n- b\n", "not list"), ("just words\n", "not str"), ("3\n", "not int")]
)
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, content: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"must hold a YAML mapping .*{what}\."):
        read_yaml(written(tmp_path, content))


@pytest.mark.parametrize("content", [b"name: caf\xe9\n", "name: a".encode("utf-16")])
def test_text_that_is_not_utf_8_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"is not UTF-8 text .*Save it as UTF-8"):
        read_yaml(written(tmp_path, content))


def test_unknown_fields_are_named_at_any_depth() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"nam": "a", "inner": {"rat": 1}}, "study.yaml")
    message = str(caught.value)
    assert message.startswith("study.yaml: ")
    assert "unknown field 'nam'" in message
    assert "unknown field 'inner.rat'" in message
    assert "Did you mean 'rate'? Did you mean 'name'?" in message
    assert "Fields at the top are: name, count, file, window, inner." in message


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"count": "many"}, "count"),
        ({"count": 0}, "count"),
        ({"count": None}, "count"),
        ({"name": 7}, "name"),
        ({"inner": {"rate": 2}}, "inner.rate"),
        ({"inner": {"words": "one"}}, "inner.words"),
        ({"inner": {"words": ["one", 2]}}, "inner.words.1"),
        ({"inner": 3}, "inner"),
        ({"window": [1, 2, 3]}, "window"),
        ({"window": ["a", 2]}, "window.0"),
    ],
)
def test_a_wrong_type_or_range_names_the_field_and_what_it_got(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"options: {re.escape(field)}: .*\(got ") as caught:
        validated(Outer, values, "options")
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_told_at_once_and_long_ones_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"count": "x" * 5000, "inner": {"rate": -1}}, "options")
    assert "count: " in str(caught.value)
    assert "inner.rate: " in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Outer().name = "other"  # type: ignore[misc]


def test_overrides_lay_values_over_a_copy() -> None:
    values = {"name": "a", "inner": {"rate": 0.25, "words": ["w"]}}
    result = with_overrides(values, ["inner.rate=1", "count=3", "file=", "window=[2, 5]", "inner.words=[x, 'y=z']", "name=a=b"])
    assert result == {
        "name": "a=b",
        "inner": {"rate": 1, "words": ["x", "y=z"]},
        "count": 3,
        "file": None,
        "window": [2, 5],
    }
    assert values == {"name": "a", "inner": {"rate": 0.25, "words": ["w"]}}
    assert validated(Outer, result, "options").inner.words == ("x", "y=z")


def test_overrides_make_sections_and_the_last_one_wins() -> None:
    assert with_overrides({}, ["inner.rate=0.1", "inner.rate=0.2"]) == {"inner": {"rate": 0.2}}
    assert with_overrides({}, []) == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set takes section.field=value, not 'seed'"),
        ("=3", "--set takes section.field=value"),
        ("name.deep=3", "--set name.deep: 'name' is a value, not a section"),
        ("inner.words=[a", r"--set inner\.words: '\[a' is not a YAML value"),
        ("name=2024-99-99", "--set name: '2024-99-99' is not a YAML value"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides({"name": "a"}, [override])


@pytest.mark.parametrize(("override", "field"), [("inner.rat=1", "inner.rat"), ("inner..rate=1", "inner."), ("nam=1", "nam")])
def test_an_override_of_an_unknown_field_is_named(override: str, field: str) -> None:
    with pytest.raises(ConfigError, match=f"options: unknown field '{re.escape(field)}'"):
        validated(Outer, with_overrides({}, [override]), "options")


outers = st.builds(
    Outer,
    name=st.text(),
    count=st.integers(1, 2**40),
    file=st.none() | st.from_regex(r"[a-z]{1,5}(/[a-z ]{1,5}){0,2}", fullmatch=True).map(Path),
    window=st.none() | st.tuples(st.integers(), st.integers()),
    inner=st.builds(Inner, rate=st.floats(0, 1, exclude_min=True), words=st.lists(st.text(), max_size=3).map(tuple)),
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(config=outers)
def test_a_config_survives_yaml_and_overrides(config: Outer, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = config.model_dump(mode="json")
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    assert validated(Outer, read_yaml(path), str(path)) == config
    assert validated(Outer, with_overrides(plain, []), "options") == config
    set_one_by_one = [f"inner.{name}={yaml.safe_dump(value)}" for name, value in plain["inner"].items()]
    assert validated(Outer, with_overrides(plain | {"inner": {}}, set_one_by_one), "options") == config


def test_the_study_survives_yaml_too(tmp_path: Path) -> None:
    config = StudyConfig(sae=Path("some/folder"), window=(1, 3), seed=4)
    path = written(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))
    assert validated(StudyConfig, read_yaml(path), str(path)) == config
