"""Stores on disk give back what was put in, and are whole or refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import ActivationError, ArtifactError, ConfigError
from interp.core.files import file_sha256
from interp.models.activation_store import INDEX_FILE, ActivationStore, StoreWriter
from interp.models.activations import capture, mean_residuals, response_phase
from interp.models.chats import Chat
from tests.helpers.tiny import D_MODEL, QUESTIONS, tiny_model

NAMES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
WIDTH = 6


def numbered(rows: int, n_models: int = 1) -> dict[str, torch.Tensor]:
    """Every entry tells its row, model and hook point; exact in bfloat16 up to 256 rows."""
    row = torch.arange(rows, dtype=torch.float32)[:, None, None].expand(rows, n_models, WIDTH).clone()
    row[:, :, 1] = torch.arange(n_models)
    return {name: torch.cat([row[..., :2], torch.full((rows, n_models, WIDTH - 2), float(i))], -1) for i, name in enumerate(NAMES)}


def filled(folder: Path, rows: int = 25, shard_rows: int = 10, **settings: Any) -> ActivationStore:
    with StoreWriter(folder, NAMES, WIDTH, shard_rows=shard_rows, **settings) as writer:
        writer.add(numbered(rows))
    return ActivationStore(folder)


def joined(store: ActivationStore) -> dict[str, torch.Tensor]:
    shards = [store.block(number) for number in range(len(store.index.shards))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in store.index.hook_points}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.integers(0, 23), min_size=1, max_size=8).filter(sum),
    shard_rows=st.integers(1, 12),
    n_models=st.integers(1, 2),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    seed=st.none() | st.integers(0, 3),
)
def test_a_store_gives_back_what_was_put_in(
    tmp_path_factory: pytest.TempPathFactory, parts: list[int], shard_rows: int, n_models: int, dtype: str, seed: int | None
) -> None:
    folder, rows = tmp_path_factory.mktemp("store"), sum(parts)
    expected = numbered(rows, n_models)
    made = {"base": "tiny", "texts": 3}
    with StoreWriter(folder, NAMES, WIDTH, n_models, dtype, shard_rows, seed, made) as writer:
        for part in zip(*(expected[name].split(parts) for name in NAMES), strict=True):
            writer.add(dict(zip(NAMES, part, strict=True)))
    store = ActivationStore(folder)
    index = store.index
    assert (store.n_rows, index.d_model, index.n_models, index.dtype) == (rows, WIDTH, n_models, dtype)
    assert index.hook_points == NAMES
    assert index.made == made
    assert [shard.rows for shard in index.shards] == [len(store.block(number)[NAMES[0]]) for number in range(len(index.shards))]
    assert all(shard.rows == shard_rows for shard in index.shards[:-1])
    found = joined(store)
    order = found[NAMES[0]][:, 0, 0].long()
    assert sorted(order.tolist()) == list(range(rows))
    if seed is None:
        assert order.tolist() == sorted(order.tolist())
    for name in NAMES:  # rows of both hook points and both models stay together
        assert found[name].dtype == getattr(torch, dtype)
        assert torch.equal(found[name].float(), expected[name][order])


def test_shuffling_is_by_shard_and_by_seed(tmp_path: Path) -> None:
    def order(folder: str, seed: int | None) -> list[float]:
        return joined(filled(tmp_path / folder, 200, 100, shuffle_seed=seed))[NAMES[0]][:, 0, 0].tolist()

    first = order("one", 1)
    assert order("again", 1) == first != order("two", 2)
    assert order("plain", None) == sorted(first)
    assert sorted(first[:100]) == list(range(100))
    assert [x % 100 for x in first[:100]] != [x % 100 for x in first[100:]]  # another order in each shard
    assert abs(torch.tensor(first[:50]).mean() - 49.5) < 15


def test_captured_residuals_survive_the_disk(tmp_path: Path) -> None:
    model, chats = tiny_model(), [Chat.ask(question, "Put it into hot water and wait.") for question in QUESTIONS]
    with StoreWriter(tmp_path, [NAMES[1]], D_MODEL, dtype="bfloat16", shard_rows=16) as writer:
        for captured in capture(model, chats, [NAMES[1]], rows=2):
            writer.add({NAMES[1]: captured.residuals[NAMES[1]][response_phase(captured.batch)][:, None]})
            assert len(writer.pending[NAMES[1]]) == 16  # never more than a shard in memory
    rows = joined(ActivationStore(tmp_path))[NAMES[1]]
    expected = mean_residuals(model, chats, [NAMES[1]])[NAMES[1]]
    torch.testing.assert_close(rows.float().mean(0)[0], expected, atol=0.02, rtol=0.02)


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(store.block(0)[NAMES[0]], numbered(10)[NAMES[0]])
    with pytest.raises(ActivationError, match=r"shard-00001.* truncated or altered"):
        store.block(1)


def test_an_altered_or_missing_shard_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ActivationError, match=r"shard-00002.* truncated or altered.* Delete .* and capture again"):
        store.block(2)
    path.unlink()
    with pytest.raises(ActivationError, match=r"shard-00002.* cannot be read: No such file"):
        store.block(2)
    with pytest.raises(ActivationError, match=r"has no shard 3; it has 3"):
        store.block(3)


def test_a_shard_that_does_not_fit_its_index_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path, good = tmp_path / "shard-00000.safetensors", numbered(10)
    for content, message in (
        ({**good, NAMES[0]: torch.zeros(10, 1, 5)}, r"holds .*\(10, 1, 5\), torch.float32.*, the index says .*\(10, 1, 6\), torch.float32"),
        ({**good, NAMES[1]: torch.zeros(9, 1, WIDTH)}, r"holds .*\(9, 1, 6\).*, the index"),
        ({**good, NAMES[1]: torch.zeros(10, 2, WIDTH)}, r"holds .*\(10, 2, 6\).*, the index"),
        ({**good, NAMES[1]: torch.zeros(10, 1, WIDTH).bfloat16()}, r"holds .*torch.bfloat16.*, the index"),
        ({NAMES[0]: good[NAMES[0]]}, r"holds [^,]*blocks.0.hook_resid_post[^b]*, the index says .*blocks.1.hook_resid_post"),
    ):
        save_file(content, path)
        store.index.shards[0] = store.index.shards[0].model_copy(update={"sha256": file_sha256(path)})
        with pytest.raises(ActivationError, match=message):
            store.block(0)
    path.write_bytes(b"no tensors at all")
    store.index.shards[0] = store.index.shards[0].model_copy(update={"sha256": file_sha256(path)})
    with pytest.raises(ActivationError, match=r"shard-00000.* cannot be read"):
        store.block(0)


def test_a_store_takes_only_finite_rows_of_its_shape(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, NAMES, WIDTH)
    good = numbered(3)
    for bad in (torch.zeros(3, 1, WIDTH + 1), torch.zeros(3, WIDTH), torch.zeros(3, 2, WIDTH), torch.zeros(2, 1, WIDTH)):
        with pytest.raises(ActivationError, match=r"do not fit a store of \[3, 1, 6\]"):
            writer.add({**good, NAMES[1]: bad})
    for bad_names in ({NAMES[0]: good[NAMES[0]]}, {**good, "blocks.2.hook_resid_post": good[NAMES[0]]}):
        with pytest.raises(ActivationError, match="do not fit a store of"):
            writer.add(bad_names)
    for value in (float("nan"), float("inf")):
        broken = good[NAMES[1]].clone()
        broken[1, 0, 2] = value
        with pytest.raises(ActivationError, match=r"at blocks\.1\.hook_resid_post .*not finite"):
            writer.add({**good, NAMES[1]: broken})
    assert writer.pending_rows == 0
    with pytest.raises(ActivationError, match="not finite"):  # finite in float64, not in what is stored
        writer.add({name: torch.full((1, 1, WIDTH), 1e300, dtype=torch.float64) for name in NAMES})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook_points": []}, "hook_points: List should have at least 1 item"),
        ({"hook_points": [NAMES[0]] * 2}, "Name each once"),
        ({"dtype": "int8"}, r"dtype: .*'float32' or 'bfloat16' \(got 'int8'\)"),
        ({"shard_rows": 0}, "0 rows a shard.*at least 1 row"),
        ({"d_model": 0}, r"d_model: .*greater than or equal to 1 \(got 0\)"),
        ({"n_models": 0}, r"n_models: .*greater than or equal to 1 \(got 0\)"),
    ],
)
def test_settings_that_make_no_store_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        StoreWriter(**{"folder": tmp_path / "store", "hook_points": NAMES, "d_model": WIDTH, **change})
    assert not (tmp_path / "store").exists()


def test_an_empty_store_is_an_error_and_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(ActivationError, match="No residuals were captured"), StoreWriter(tmp_path / "store", NAMES, WIDTH) as writer:
        writer.add(numbered(0))
    assert files(tmp_path / "store") == []
    with pytest.raises(ActivationError, match="is not an activation store"):
        ActivationStore(tmp_path / "store")


def test_a_store_that_was_not_closed_is_no_store_and_gives_way_to_the_next(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, NAMES, WIDTH, shard_rows=2)
    writer.add(numbered(9))  # and the writer is killed here
    (tmp_path / "shard-00004.safetensors.partial").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ActivationError, match=r"index\.json is missing"):
        ActivationStore(tmp_path)
    store = filled(tmp_path, rows=3)
    assert files(tmp_path) == [INDEX_FILE, "notes.txt", "shard-00000.safetensors"]
    assert torch.equal(joined(store)[NAMES[0]], numbered(3)[NAMES[0]])


def test_a_finished_store_is_not_written_over(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with pytest.raises(ActivationError, match=r"already holds an activation store\. Delete it, or choose another folder"):
        StoreWriter(tmp_path, NAMES, WIDTH)
    assert torch.equal(joined(store)[NAMES[0]], numbered(25)[NAMES[0]])
    with pytest.raises(ActivationError, match="Cannot write into"):
        StoreWriter(tmp_path / INDEX_FILE, NAMES, WIDTH)


def test_an_error_inside_the_block_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with StoreWriter(tmp_path, NAMES, WIDTH, shard_rows=2) as writer:
            writer.add(numbered(5))
            assert files(tmp_path) == ["shard-00000.safetensors", "shard-00001.safetensors"]
            raise KeyError("the capture failed")

    with pytest.raises(KeyError):
        fail()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("Error while serializing: IoError(No space left (os error 28))")],
)
def test_a_full_disk_is_a_clear_error_and_leaves_no_half_shard(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, seen = save_file, []

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        seen.append(path)
        if len(seen) == 2:
            path.write_bytes(b"half a shard")
            raise error
        real(tensors, path)

    monkeypatch.setattr("interp.models.activation_store.save_file", full)
    writer = StoreWriter(tmp_path, NAMES, WIDTH, shard_rows=10)
    with pytest.raises(ArtifactError, match=r"Cannot write .*shard-00001.*(?i:no space left).* Free some space"):
        writer.add(numbered(25))
    assert files(tmp_path) == ["shard-00000.safetensors"]
    with pytest.raises(ActivationError, match="is not an activation store"):
        ActivationStore(tmp_path)


def test_a_full_disk_at_the_index_leaves_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_args: object) -> None:
        raise ArtifactError("Cannot write index.json: No space left on device. Free some space.")

    monkeypatch.setattr("interp.models.activation_store.write_json", full)
    with pytest.raises(ArtifactError, match=r"Cannot write index.*Free some space"):
        filled(tmp_path)
    assert files(tmp_path) == []


def rewritten(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda index: index | changes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index: {k: v for k, v in index.items() if k != "version"}, "version must be given"),
        (rewritten(version=3), r"version: .*should be 2 \(got 3\)"),
        (lambda _index: [1], r"should be a valid dictionary.* \(got \[1\]\)"),
        (lambda index: {k: v for k, v in index.items() if k != "d_model"}, "d_model must be given"),
        (rewritten(shards=[{"rows": 1}]), r"shards\.0\.file must be given"),
        (rewritten(shards=[]), "names no shard"),
        (rewritten(dtype="int8"), "dtype: "),
        (rewritten(shards=[{"file": "../other.safetensors", "rows": 1, "sha256": "0"}]), r"shards\.0\.file: .*should match pattern"),
    ],
)
def test_a_damaged_index_is_a_clear_error(damage: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / INDEX_FILE
    index = json.loads(path.read_text())
    assert sum(shard["rows"] for shard in index["shards"]) == 25
    assert {name: len(t) for name, t in load_file(tmp_path / index["shards"][2]["file"]).items()} == dict.fromkeys(NAMES, 5)
    path.write_text(json.dumps(damage(index)))
    with pytest.raises(ActivationError, match=message):
        ActivationStore(tmp_path)
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"Cannot read .*index\.json"):
        ActivationStore(tmp_path)
