"""Run directories: a step is there whole or not at all, and is made once, by one of the processes that want it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.artifacts import Artifact, in_place
from interp.core.config import StepConfig
from interp.core.errors import ArtifactError, ConfigError
from interp.core.files import file_sha256, read_json, write_json, write_text
from interp.core.fingerprints import content_key
from interp.core.steps import DeclaredSettings, RunDirectory, Step
from interp.core.streams import stream_seed

HOLDS_A_STEP = """
import sys
from pathlib import Path
from interp.core.steps import RunDirectory

def make(folder):
    (folder / "half.txt").write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()
    (folder / "half.txt").rename(folder / "whole.txt")

run = RunDirectory(Path(sys.argv[1]))
run.step("first", {"seed": 0}, {}, lambda folder: (folder / "whole.txt").write_text("whole"))
run.step("second", {"seed": 0}, {}, make)
"""


@contextmanager
def holder_of_second(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has made the step `first` and is in the middle of `second`, until it gets a line."""
    command = [sys.executable, "-c", HOLDS_A_STEP, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process


class Settings(StepConfig):
    seed: int = 0
    words: tuple[str, ...] = ("a", "b")


class Maker:
    """Writes a file and counts how often it was asked to."""

    def __init__(self, content: str = "made") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "inner").mkdir()
        (folder / "inner" / "result.txt").write_text(self.content)


def left_in(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.steps_folder.iterdir())


def test_a_step_runs_once_and_is_loaded_afterwards(tmp_path: Path) -> None:
    make = Maker()
    run = RunDirectory(tmp_path / "run")
    first = run.step("answers", Settings(), {"model": "abc"}, make)
    again = run.step("answers", Settings(), {"model": "abc"}, make)
    run = RunDirectory(tmp_path / "run")  # as a new process would
    later = run.step("answers", Settings(), {"model": "abc"}, make)
    assert make.calls == 1
    assert (first.loaded, again.loaded, later.loaded) == (False, True, True)
    assert first.folder == again.folder == later.folder
    assert first.key == again.key == later.key
    assert later.path("inner/result.txt").read_text() == "made"


@pytest.mark.parametrize(
    ("name", "config", "inputs"),
    [
        ("answers", Settings(seed=1), {"model": "abc"}),
        ("answers", Settings(words=("a",)), {"model": "abc"}),
        ("answers", Settings(words=("b", "a")), {"model": "abc"}),
        ("answers", Settings(), {"model": "abd"}),
        ("answers", Settings(), {"base": "abc"}),
        ("answers", Settings(), {}),
        ("residuals", Settings(), {"model": "abc"}),
    ],
)
def test_a_changed_setting_input_or_name_reruns(tmp_path: Path, name: str, config: Settings, inputs: dict[str, str]) -> None:
    make, changed = Maker(), Maker("changed")
    run = RunDirectory(tmp_path / "run")
    first = run.step("answers", Settings(), {"model": "abc"}, make)
    second = run.step(name, config, inputs, changed)
    back = run.step("answers", Settings(), {"model": "abc"}, make)
    assert (make.calls, changed.calls) == (1, 1)
    assert second.key != first.key
    assert second.path("inner/result.txt").read_text() == "changed"
    assert back.loaded  # the first result was not thrown away
    assert back.path("inner/result.txt").read_text() == "made"


def test_a_change_reruns_all_that_follows_and_nothing_else(tmp_path: Path) -> None:
    calls: list[str] = []

    def maker(name: str) -> Callable[[Path], None]:
        return lambda folder: calls.append(name)

    def chain(run: RunDirectory, seed: int) -> None:
        side = run.step("side", {}, {}, maker("side"))
        first = run.step("first", {"seed": seed}, {}, maker("first"))
        second = run.step("second", {}, {"first": first}, maker("second"))
        run.step("third", {}, {"second": second, "side": side}, maker("third"))

    run = RunDirectory(tmp_path / "run")
    chain(run, 0)
    chain(run, 0)
    assert calls == ["side", "first", "second", "third"]
    calls.clear()
    chain(run, 1)
    assert calls == ["first", "second", "third"]
    calls.clear()
    chain(run, 0)
    assert calls == []


@pytest.mark.parametrize("raised", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_whatever_a_step_raises_passes_through_and_leaves_nothing(tmp_path: Path, raised: BaseException) -> None:
    def make(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise raised

    run = RunDirectory(tmp_path / "run")
    with pytest.raises(type(raised)) as caught:
        run.step("answers", {}, {}, make)
    assert caught.value is raised
    assert left_in(run) == []
    result = run.step("answers", {}, {}, Maker())
    assert not result.loaded
    assert left_in(run) == [result.folder.name]


def test_a_step_is_not_seen_under_its_name_before_it_is_whole(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def make(folder: Path) -> None:
        (folder / "result.txt").write_text("made")
        seen.append(left_in(run))

    run = RunDirectory(tmp_path / "run")
    result = run.step("answers", {}, {}, make)
    assert seen == [[result.folder.name + ".partial"]]
    assert left_in(run) == [result.folder.name]


def test_what_is_unfinished_belongs_to_its_settings_and_goes_with_the_step(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    one, other = (run.unfinished("first", Settings(seed=size), {}) for size in (1, 2))
    assert one != other
    assert one != run.unfinished("first", Settings(seed=1), {"text": "abc"})
    for folder in (one, other):
        folder.mkdir(parents=True)
    run.step("first", Settings(seed=1), {}, lambda folder: None)
    assert (one.exists(), other.exists()) == (False, True)
    run.step("first", Settings(seed=2), {}, lambda folder: None)
    assert not other.parent.exists()


def test_kill_9_in_a_step_loses_that_step_alone(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with holder_of_second(root) as process:
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    run = RunDirectory(root)
    first, partial = left_in(run)
    assert first.startswith("first-")
    assert not first.endswith(".partial")
    assert partial.startswith("second-")
    assert partial.endswith(".partial")
    assert (run.steps_folder / partial / "half.txt").read_text() == "half"
    make = Maker()
    assert run.step("first", {"seed": 0}, {}, make).loaded
    other = run.step("second", {"seed": 1}, {}, make)
    assert left_in(run) == sorted([first, other.folder.name])  # what the killed process left is gone
    second = run.step("second", {"seed": 0}, {}, make)
    assert make.calls == 2
    assert second.path("inner/result.txt").read_text() == "made"
    assert second.folder.name == partial.removesuffix(".partial")


def test_a_process_waits_for_a_step_that_another_is_making_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with holder_of_second(tmp_path / "run") as process:

        def warned(message: str, category: type[Warning], stacklevel: int) -> None:
            said.append(f"{category.__name__}: {message}")
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        monkeypatch.setattr(warnings, "warn", warned)
        make, run = Maker(), RunDirectory(tmp_path / "run")
        second = run.step("second", {"seed": 0}, {}, make)
    assert said == [f"StepWarning: Another process is making {second.folder.name} in {run.root}. Waiting for it."]
    assert (make.calls, second.loaded) == (0, True)
    assert second.path("whole.txt").read_text() == "half"


def test_two_processes_make_different_steps_of_one_run_at_once(tmp_path: Path) -> None:
    with holder_of_second(tmp_path / "run") as process:
        run = RunDirectory(tmp_path / "run")
        third = run.step("third", {}, {}, Maker())
        partial = [name for name in left_in(run) if name.endswith(".partial")]
        assert [name.split("-")[0] for name in partial] == ["second"]  # the running process keeps its own
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    assert not third.loaded
    assert [name.split("-")[0] for name in left_in(run)] == ["first", "second", "third"]


def test_out_that_is_a_file_or_lies_below_one_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ArtifactError, match=r"is a file.*--out"):
        RunDirectory(file)
    with pytest.raises(ArtifactError, match=r"Cannot write into .*--out"):
        RunDirectory(file / "run").step("answers", {}, {}, Maker())
    assert file.read_text() == "mine"


def test_step_json_has_settings_inputs_hashes_and_surroundings(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    earlier = run.step("earlier", {}, {}, Maker())
    result = run.step("answers", Settings(seed=3), {"model": "abc", "earlier": earlier}, Maker("text"))
    record = result.record()
    assert record["step"] == "answers"
    assert record["key"] == result.key
    assert record["settings"] == {"seed": 3, "words": ["a", "b"]}
    assert record["inputs"] == {"model": "abc", "earlier": earlier.key}
    assert record["files"] == {"inner/result.txt": hashlib.sha256(b"text").hexdigest()}
    assert record["duration_s"] >= 0
    assert record["peak_memory_bytes"] > 2**20
    assert record["device"]
    assert record["versions"]["python"] == platform.python_version()
    for package in ("torch", "transformers", "numpy"):
        assert record["versions"][package] == importlib.metadata.version(package)


def test_the_manifest_names_everything_and_finds_the_steps_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    steps = {name: run.step(name, Settings(), {}, Maker(name)) for name in ("first", "second")}
    run.write_manifest(Settings(seed=5), steps, {"hook_point": "blocks.1.hook_resid_post"})
    read = RunDirectory(tmp_path / "run")
    manifest = read.manifest()
    assert manifest["config"] == {"seed": 5, "words": ["a", "b"]}
    assert manifest["hook_point"] == "blocks.1.hook_resid_post"
    assert manifest["versions"]["torch"] == importlib.metadata.version("torch")
    assert list(manifest["steps"]) == ["first", "second"]
    assert manifest["steps"]["first"] == steps["first"].record() | {"folder": steps["first"].folder.name}
    found = read.result("second")
    assert (found.key, found.folder, found.loaded) == (steps["second"].key, steps["second"].folder, True)
    with pytest.raises(ArtifactError, match=r"no step 'third'.*first, second"):
        read.result("third")


def test_a_folder_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no finished run.*personascope run"):
        RunDirectory(tmp_path).manifest()


@pytest.mark.parametrize("damage", ["", '{"step": "ans', "\x00\x00"])
def test_a_damaged_step_json_or_manifest_is_a_clear_error(tmp_path: Path, damage: str) -> None:
    run = RunDirectory(tmp_path / "run")
    result = run.step("answers", {}, {}, Maker())
    (result.folder / "step.json").write_text(damage)
    again = run.step("answers", {}, {}, Maker())
    with pytest.raises(ArtifactError, match=r"Cannot read .*step\.json.*Delete its folder and run again"):
        again.record()
    (run.root / "manifest.json").write_text(damage)
    with pytest.raises(ArtifactError, match=r"Cannot read .*manifest\.json"):
        run.manifest()


def test_a_step_folder_that_lost_its_step_json_is_made_again(tmp_path: Path) -> None:
    make = Maker()
    run = RunDirectory(tmp_path / "run")
    result = run.step("answers", {}, {}, make)
    (result.folder / "step.json").unlink()
    again = run.step("answers", {}, {}, make)
    assert make.calls == 2
    assert not again.loaded
    assert again.record()["key"] == result.key


def test_a_missing_file_of_a_step_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    result = run.step("answers", {}, {}, Maker())
    with pytest.raises(ArtifactError, match=r"has no absent\.parquet.*Delete that folder"):
        result.path("absent.parquet")


class Inner(StepConfig):
    width: int = 1
    depth: int = 2


class Nested(StepConfig):
    seed: int = 0
    inner: Inner = Inner()
    other: Inner = Inner(width=3)


@dataclass(frozen=True)
class Everything(Artifact):
    table: pd.DataFrame
    vectors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    weights: Path = in_place("model")


def declared(*settings: str) -> Step[object]:
    return Step("answers", Everything, lambda context: context, settings=settings)  # type: ignore[arg-type, return-value]


def test_a_step_reads_what_it_declares_and_nothing_else() -> None:
    step = declared("seed", "inner.width", "other")
    assert step.settings_of(Nested()) == {"seed": 0, "inner.width": 1, "other": {"width": 3, "depth": 2}}
    seen = DeclaredSettings(Nested(), step)
    assert (seen.seed, seen.inner.width, seen.other, seen.other.depth) == (0, 1, Inner(width=3), 2)
    with pytest.raises(ConfigError, match=r"'answers' reads the setting 'inner\.depth', which it does not declare"):
        _ = seen.inner.depth
    with pytest.raises(ConfigError, match="'inner'"):
        _ = DeclaredSettings(Nested(), declared("seed")).inner
    with pytest.raises(AttributeError):
        _ = seen.sed
    for wrong in ("sed", "inner.height", "seed.low"):
        with pytest.raises(ConfigError, match=f"no setting '{wrong}'"):
            declared(wrong).settings_of(Nested())


def test_an_artifact_loads_what_it_saved(tmp_path: Path) -> None:
    made = Everything(pd.DataFrame({"a": [1, 2]}), {"v": torch.arange(3.0)}, {"n": [1, None]})
    run = RunDirectory(tmp_path / "run")

    def make(folder: Path) -> None:
        (folder / "model").mkdir()
        made.save(folder)

    result = run.step("answers", {}, {}, make)
    loaded = result.load(Everything)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "facts.json",
        "model",
        "step.json",
        "table.parquet",
        "vectors.safetensors",
    ]
    pd.testing.assert_frame_equal(loaded.table, made.table)
    assert torch.equal(loaded.vectors["v"], made.vectors["v"])
    assert (loaded.facts, loaded.weights) == (made.facts, result.folder / "model")


@pytest.mark.parametrize("name", ["table.parquet", "vectors.safetensors", "facts.json", "model"])
def test_a_missing_or_damaged_file_of_an_artifact_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").touch()
    Everything(pd.DataFrame({"a": [1]}), {"v": torch.ones(1)}, {}).save(tmp_path)
    path = tmp_path / name
    if name != "model":
        path.write_bytes(b"\x00")
        with pytest.raises(ArtifactError, match=name):
            Everything.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        Everything.load(tmp_path)


def test_streams_differ_by_seed_and_name_and_stay_what_they_are() -> None:
    seeds = [stream_seed(0), stream_seed(1), stream_seed(0, "a"), stream_seed(0, "a", "b"), stream_seed(0, "a/b"), stream_seed(0, "a", 1)]
    assert len({*seeds, stream_seed(0, "a", "1")}) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "screen", "shortlist") == 8053941003437151130


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
