"""Training resumed to the last bit, and on disk whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import TrainingError
from sae_training.config import TopKConfig
from sae_training.trainer import train, train_all
from tests.helpers.small_trainings import KINDS, LATENTS, QUICK, RESULT, STEPS, StopAfter, Stopped, changed, everything, several
from tests.helpers.toy_features import small_source


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Files of trainings that nothing disturbed, by kind."""
    result = {}
    for kind, config in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        train(config, small_source(), folder)
        result[kind] = everything(folder)
        assert result[kind].keys() == RESULT
    return result


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_training_stopped_at_any_step_ends_with_the_same_bytes(step: int, tmp_path: Path, uninterrupted: Any) -> None:
    with pytest.raises(Stopped):
        train(QUICK, small_source(), tmp_path, advance=StopAfter(step))
    kept = sorted(path.name for path in tmp_path.glob("checkpoints/*"))
    assert kept == [f"step-{at:09d}" for at in (4, 8, 12) if at <= step][-2:]
    done: list[int] = []
    train(QUICK, small_source(), tmp_path, advance=lambda steps, _: done.append(steps))
    resumed_at = step // 4 * 4
    assert done == ([resumed_at] if resumed_at else []) + [1] * (STEPS - resumed_at)
    assert everything(tmp_path) == uninterrupted["topk"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_resumes_to_the_last_bit(kind: str, tmp_path: Path, uninterrupted: Any) -> None:
    for step in (2, 6, 11, STEPS):  # stopped again and again
        with pytest.raises(Stopped):
            train(KINDS[kind], small_source(), tmp_path, callbacks=[StopAfter(step)])
    with pytest.raises(Stopped):
        train(KINDS[kind], small_source(), tmp_path, callbacks=[StopAfter(STEPS + 1)])  # at the end of all, by `end`
    train(KINDS[kind], small_source(), tmp_path)
    files = everything(tmp_path)
    assert {name: files[name] for name in RESULT} == uninterrupted[kind]


@pytest.mark.parametrize("step", [3, 8, 14])
def test_several_dictionaries_from_one_feed_resume_to_the_last_bit(step: int, tmp_path: Path) -> None:
    source = small_source(n_models=2, hook_points=("first", "second"))
    options: dict[str, Any] = {"models": ["base", "tuned"], "seed": 5}
    trained = train_all(several(), source, tmp_path / "whole", **options)
    assert {name: one.folder for name, one in trained.items()} == {name: tmp_path / "whole" / name for name in several()}
    with pytest.raises(Stopped):
        train_all(several(), source, tmp_path / "parts", advance=StopAfter(step), **options)
    train_all(several(), source, tmp_path / "parts", **options)
    whole = everything(tmp_path / "whole")
    assert everything(tmp_path / "parts") == whole
    assert whole.keys() == {f"{name}/{file}" for name in several() for file in RESULT}
    # Each is what it would be by itself, apart from the note of what else was trained.
    for name, config in several().items():
        alone = train(config, source, tmp_path / "alone" / name, **options)
        for file in RESULT - {"training.json"}:
            assert (alone.folder / file).read_bytes() == whole[f"{name}/{file}"], (name, file)


def test_a_stop_between_two_results_trains_both_again_to_the_same_bytes(tmp_path: Path) -> None:
    source = small_source(n_models=2, hook_points=("first", "second"))
    train_all(several(), source, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_all(several(), source, tmp_path / "parts", callbacks=[StopAfter(STEPS + 1)])
    assert len(list((tmp_path / "parts").rglob("training.json"))) == 1
    train_all(several(), source, tmp_path / "parts")
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from tests.helpers.small_trainings import QUICK
from tests.helpers.toy_features import small_source
from sae_training.trainer import train
from sae_training.config import TopKConfig

def advance(steps, what):
    print(steps, flush=True)
    time.sleep(0.02)

train(QUICK, small_source(), Path(sys.argv[1]), advance=advance)
"""


def test_kill_9_and_again(tmp_path: Path, uninterrupted: Any) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a"), str(torch.get_num_threads())]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for _step in range(10):
        assert process.stdout.readline()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert (tmp_path / "a" / "checkpoints" / "step-000000008").is_dir()
    assert not (tmp_path / "a" / "training.json").exists()
    train(QUICK, small_source(), tmp_path / "a")
    assert everything(tmp_path / "a") == uninterrupted["topk"]


def test_what_a_kill_left_half_written_is_in_nobodys_way(tmp_path: Path, uninterrupted: Any) -> None:
    with pytest.raises(Stopped):
        train(QUICK, small_source(), tmp_path, advance=StopAfter(9))
    half = tmp_path / "checkpoints" / ".step-000000012.partial"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    train(QUICK, small_source(), tmp_path)
    assert everything(tmp_path) == uninterrupted["topk"]


def test_what_is_finished_is_loaded(tmp_path: Path, uninterrupted: Any) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it was trained again")

    first = train(QUICK, small_source(), tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(QUICK, small_source(), tmp_path, advance=never) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    # A feed that can no longer be read is no obstacle.
    source = small_source()
    source.block = never  # type: ignore[method-assign, assignment]
    vars(source)["fingerprint"] = small_source().fingerprint
    assert train(QUICK, source, tmp_path) == first


OTHERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"learning_rate": 0.5}, {}, r"configs\.\.learning_rate: 0\.001, now 0\.5"),
    ({"architecture": TopKConfig(n_latents=LATENTS, k=4)}, {}, r"configs\.\.architecture\.k: 3, now 4"),
    ({"outlier_factor": 9.0}, {}, r"configs\.\.outlier_factor: None, now 9\.0"),
    ({}, {"seed": 1}, r"seed: 0, now 1"),
    ({}, {"group": 2}, r"group: 4, now 2"),
    ({}, {"models": ["other"]}, r"models: \['unnamed'\], now \['other'\]"),
    ({}, {"source": small_source(tokens=601)}, r"feed: \w+, now \w+"),
]


@pytest.mark.parametrize(("fields", "options", "message"), OTHERS)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    fields: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config, options = changed(**fields), {"source": small_source(), **options}
    with suppress(Stopped):
        train(QUICK, small_source(), tmp_path / "begun", advance=StopAfter(5))
    train(QUICK, small_source(), tmp_path / "ended")
    before = everything(tmp_path)
    with pytest.raises(TrainingError, match=rf"step-000000004 was made with other settings \({message}\)\. Choose another folder, or del"):
        train(config, folder=tmp_path / "begun", **options)
    with pytest.raises(TrainingError, match=rf"ended holds a dictionary made with other settings \({message}\)\. Choose another folder"):
        train(config, folder=tmp_path / "ended", **options)
    assert everything(tmp_path) == before


def test_a_result_of_another_name_is_refused(tmp_path: Path) -> None:
    configs = {"a": QUICK, "b": changed(learning_rate=0.01)}
    train_all(configs, small_source(), tmp_path)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    with pytest.raises(TrainingError, match=r"made with other settings \(name: b, now a\)"):
        train_all(configs, small_source(), tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Any] = {
    "tensors cut": lambda folder: cut(folder / "tensors.safetensors"),
    "tensors gone": lambda folder: (folder / "tensors.safetensors").unlink(),
    "metrics cut": lambda folder: cut(folder / "metrics.parquet"),
    "state cut": lambda folder: cut(folder / "state.json"),
    "state empty": lambda folder: (folder / "state.json").write_text("{}"),
    "state no mapping": lambda folder: (folder / "state.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(damage: str, tmp_path: Path, uninterrupted: Any) -> None:
    with pytest.raises(Stopped):
        train(QUICK, small_source(), tmp_path, advance=StopAfter(9))
    last = tmp_path / "checkpoints" / "step-000000008"
    DAMAGE[damage](last)
    with pytest.raises(TrainingError, match=rf"The checkpoint {last} is damaged: .*Delete it to resume from the one before"):
        train(QUICK, small_source(), tmp_path)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    done: list[int] = []
    train(QUICK, small_source(), tmp_path, advance=lambda steps, _: done.append(steps))
    assert done[0] == 4
    assert everything(tmp_path) == uninterrupted["topk"]


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"name": "", "made_by": {}}'])
def test_a_damaged_summary_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(TrainingError, match=r"training\.json is damaged: .*Delete .* and train again"):
        train(QUICK, small_source(), tmp_path)


@contextmanager
def no_file_larger_than(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow further, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullFrom:
    """An `advance` after whose step the disk is full."""

    def __init__(self, step: int, room: int) -> None:
        self.step, self.room, self.done = step, room, 0
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def __call__(self, steps: int, _what: str) -> None:
        self.done += steps
        if self.done >= self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.limits[1]))


@contextmanager
def disk_full(step: int, room: int) -> Iterator[FullFrom]:
    with no_file_larger_than(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        yield FullFrom(step, room)


@pytest.mark.parametrize("what", ["nothing", "part of the tensors", "tensors, no metrics"])
def test_a_full_disk_leaves_earlier_checkpoints_and_nothing_half_written(what: str, tmp_path: Path) -> None:
    config, folder = changed(architecture=TopKConfig(n_latents=4, k=2)), tmp_path / "a"
    train(config, small_source(), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, small_source(), folder, advance=StopAfter(9))
    before = everything(folder)
    tensors, metrics = (len(before[f"checkpoints/step-000000008/{file}"]) for file in ("tensors.safetensors", "metrics.parquet"))
    assert metrics > tensors
    room = {"nothing": 0, "part of the tensors": tensors // 2, "tensors, no metrics": (tensors + metrics) // 2}[what]
    message = (
        rf"Cannot write the checkpoint {folder}/checkpoints/step-000000012: .*File too large.* "
        rf"The last good checkpoint is {folder}/checkpoints/step-000000008\. Free some space and run the same command again"
    )
    with disk_full(11, room) as full, pytest.raises(TrainingError, match=message):
        train(config, small_source(), folder, advance=full)
    assert everything(folder) == before
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000000004", "step-000000008"]
    train(config, small_source(), folder)
    assert everything(folder) == everything(tmp_path / "whole")


@pytest.mark.parametrize("file", ["", *sorted(RESULT)])
def test_a_full_disk_at_the_end_leaves_no_half_result(file: str, tmp_path: Path, uninterrupted: Any) -> None:
    """The disk takes all files that are smaller than one of them."""
    room = len(uninterrupted["topk"][file]) - 1 if file else 0
    with disk_full(STEPS, room) as full, pytest.raises(TrainingError, match=r"Cannot save the result in .*File too large"):
        train(QUICK, small_source(), tmp_path, advance=full)
    left = everything(tmp_path)
    assert "training.json" not in left
    assert {f"checkpoints/step-00000{step:04d}/state.json" for step in (8, 12)} <= left.keys()
    for name, content in left.items():
        assert name.startswith("checkpoints/") or content == uninterrupted["topk"][name]
    train(QUICK, small_source(), tmp_path)
    assert everything(tmp_path) == uninterrupted["topk"]
