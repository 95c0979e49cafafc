"""Run directories: a step is there whole or not at all, and is made once, by one of the processes that want it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interp.core.artifacts import Artifact
from interp.core.config import StepConfig
from interp.core.errors import ArtifactError, ConfigError
from interp.core.steps import DeclaredSettings, RunDirectory, Step

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


def declared(*settings: str) -> Step[object]:
    return Step("answers", Artifact, lambda context: context, settings=settings)  # type: ignore[arg-type, return-value]


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
