"""Captured residuals are Hugging Face's hidden states, capture stops early, and stores on disk are whole or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import D_MODEL, FAMILIES, N_LAYERS, QUESTIONS, ask_all, tiny_model

from interp.activation_store import INDEX_FILE, ActivationStore, StoreWriter
from interp.activations import capture, capture_batch, content_tokens, mean_residuals, median_residual_norm, response_phase
from interp.artifacts import file_sha256
from interp.chats import Chat, Role
from interp.errors import ActivationError, ArtifactError, HookPointError
from interp.hook_points import resid_post
from interp.models import LanguageModel

ANSWERS = ("Wait.", "Put it into hot water and wait for seven minutes.", "Speak it every day.", "The air scatters light.")
CHATS = [Chat.ask(question, answer, "You are kind.") for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
NAMES = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"]


def hidden_states(model: LanguageModel, chat: Chat) -> tuple[torch.Tensor, ...]:
    """Hugging Face's hidden states [position, d_model] of one chat alone, without padding."""
    with torch.inference_mode():
        output = model.network(input_ids=torch.tensor([model.tokenise([chat])[0].ids]), output_hidden_states=True)
    return tuple(states[0] for states in output.hidden_states)


def place(name: str) -> int:
    """Index of a hook point among the hidden states."""
    return int(name.split(".")[1]) + name.endswith("post")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 3])
def test_capture_is_hugging_faces_hidden_states(family: str, rows: int) -> None:
    model = tiny_model(1, family)
    seen: list[int] = []
    done: list[int] = []
    for captured in capture(model, CHATS, NAMES, rows=rows, progress=done.append):
        assert set(captured.residuals) == set(NAMES)
        for row, index in enumerate(captured.rows):
            expected = hidden_states(model, CHATS[index])
            for name in NAMES:
                residual = captured.residuals[name][row][captured.batch.mask[row]]
                torch.testing.assert_close(residual, expected[place(name)], atol=1e-5, rtol=1e-5)
        seen += captured.rows
    assert sorted(seen) == list(range(len(CHATS)))
    assert sum(done) == len(CHATS)


def test_capture_stops_behind_the_last_hook_point() -> None:
    model = tiny_model()
    ran: list[int] = []
    for layer in range(N_LAYERS):
        model.block(layer).mlp.register_forward_pre_hook(lambda _module, _args, layer=layer: ran.append(layer))
    model.network.lm_head.register_forward_pre_hook(lambda _module, _args: ran.append(-1))
    for names, expected in (
        (["blocks.0.hook_resid_pre"], []),
        (["blocks.0.hook_resid_post"], [0]),
        (["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"], [0, 1]),
        (["blocks.1.hook_resid_pre"], [0]),
        (["blocks.2.hook_resid_post"], [0, 1, 2]),
    ):
        ran.clear()
        assert len(list(capture(model, CHATS, names))) == 1
        assert ran == expected


def test_capture_leaves_the_model_as_it_was() -> None:
    model = tiny_model()
    _indices, batch = next(model.batches(CHATS))
    before = model.read(batch)
    list(capture(model, CHATS, NAMES))
    with pytest.raises(HookPointError):
        list(capture(model, CHATS, [NAMES[0], "blocks.7.hook_resid_post"]))
    assert model.positions is None
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in model.blocks)
    assert torch.equal(model.read(batch), before)


def test_wrong_hook_points_raise() -> None:
    model = tiny_model()
    _indices, batch = next(model.batches(CHATS))
    for wrong in ("blocks.3.hook_resid_post", "blocks.1.hook_mlp_out"):
        with pytest.raises(HookPointError, match="Did you mean"):
            capture_batch(model, batch, [wrong], range(4))
    with pytest.raises(ActivationError, match="Name at least one"):
        capture_batch(model, batch, [], range(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_residuals_that_are_not_finite_raise(value: float) -> None:
    model = tiny_model()
    model.network.model.embed_tokens.weight.data[model.tokenizer("Why")["input_ids"][0], 0] = value
    with pytest.raises(ActivationError, match=r"blocks\.0\.hook_resid_pre that are not finite"):
        list(capture(model, CHATS[:1], ["blocks.0.hook_resid_pre"]))


def test_max_tokens_cuts_what_is_captured() -> None:
    model = tiny_model()
    lengths = [len(t.ids) for t in model.tokenise(CHATS)]
    limit = max(lengths) - 3
    masks = [captured.batch.mask.sum().item() for captured in capture(model, CHATS, NAMES[:1], max_tokens=limit)]
    assert sum(masks) == sum(min(length, limit) for length in lengths)


def test_response_phase_runs_from_the_last_prompt_token_to_the_last_but_one() -> None:
    model = tiny_model()
    ((indices, batch),) = model.batches(CHATS)
    for row, index in enumerate(indices):
        tokenised = model.tokenise([CHATS[index]])[0]
        padding = batch.ids.shape[1] - len(tokenised.ids)
        wanted = [False] * padding + [tokenised.n_prompt - 1 <= i < len(tokenised.ids) - 1 for i in range(len(tokenised.ids))]
        assert response_phase(batch)[row].tolist() == wanted
        # One residual for each response token: the one that it was predicted from.
        assert int(response_phase(batch)[row].sum()) == len(tokenised.ids) - tokenised.n_prompt


def test_content_begins_with_the_first_user_token() -> None:
    model = tiny_model()
    ((indices, batch),) = model.batches(CHATS)
    for row, index in enumerate(indices):
        tokenised = model.tokenise([CHATS[index]])[0]
        padding = batch.ids.shape[1] - len(tokenised.ids)
        first = padding + tokenised.roles.index(Role.USER)
        assert content_tokens(batch)[row].tolist() == [column >= first for column in range(batch.ids.shape[1])]


@pytest.mark.parametrize("where", [response_phase, content_tokens])
def test_mean_residuals_equal_a_plain_mean_over_single_chats(where: Callable[..., torch.Tensor]) -> None:
    model = tiny_model(2)
    means = mean_residuals(model, CHATS * 12, NAMES, where)  # more than one batch
    chosen: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    for chat in CHATS:
        tokenised = model.tokenise([chat])[0]
        start = tokenised.n_prompt - 1 if where is response_phase else tokenised.roles.index(Role.USER)
        stop = len(tokenised.ids) - (where is response_phase)
        for name in NAMES:
            chosen[name].append(hidden_states(model, chat)[place(name)][start:stop])
    for name in NAMES:
        torch.testing.assert_close(means[name], torch.cat(chosen[name]).mean(0), atol=1e-5, rtol=1e-5)
        assert means[name].dtype == torch.float32


def test_median_residual_norm_equals_a_plain_median() -> None:
    model = tiny_model(2)
    norms = []
    for chat in CHATS:
        tokenised = model.tokenise([chat])[0]
        norms.append(hidden_states(model, chat)[2][tokenised.n_prompt - 1 : -1].norm(dim=-1))
    assert median_residual_norm(model, CHATS, [resid_post(1)]) == {resid_post(1): pytest.approx(float(torch.cat(norms).median()), rel=1e-5)}


@pytest.mark.parametrize("statistic", [mean_residuals, median_residual_norm])
@pytest.mark.parametrize("chats", [[], ask_all()])
def test_statistics_without_a_response_raise(statistic: Callable[..., object], chats: list[Chat]) -> None:
    with pytest.raises(ActivationError, match="Give chats that have a response"):
        statistic(tiny_model(), chats, NAMES)


def filled(folder: Path, rows: int = 25, shard_rows: int = 10) -> tuple[ActivationStore, torch.Tensor]:
    residuals = torch.randn(rows, D_MODEL, generator=torch.Generator().manual_seed(0))
    writer = StoreWriter(folder, NAMES[0], D_MODEL, shard_rows)
    for part in residuals.split(7):
        writer.add(part)
    writer.close()
    return ActivationStore(folder), residuals


@settings(max_examples=20, deadline=None)
@given(parts=st.lists(st.integers(0, 23), min_size=1, max_size=8).filter(sum), shard_rows=st.integers(1, 12))
def test_a_store_gives_back_what_was_put_in(tmp_path_factory: pytest.TempPathFactory, parts: list[int], shard_rows: int) -> None:
    residuals = torch.randn(sum(parts), D_MODEL)
    writer = StoreWriter(tmp_path_factory.mktemp("store"), NAMES[0], D_MODEL, shard_rows)
    for part in residuals.split(parts):
        writer.add(part)
    writer.close()
    store = ActivationStore(writer.folder)
    shards = list(store.shards())
    assert torch.equal(torch.cat(shards), residuals)
    assert all(len(shard) == shard_rows for shard in shards[:-1])
    assert (store.n_rows, store.d_model, store.hook_point) == (sum(parts), D_MODEL, NAMES[0])


def test_captured_residuals_survive_the_disk(tmp_path: Path) -> None:
    model = tiny_model()
    writer = StoreWriter(tmp_path, NAMES[1], D_MODEL, shard_rows=16)
    for captured in capture(model, CHATS, [NAMES[1]], rows=2):
        writer.add(captured.residuals[NAMES[1]][response_phase(captured.batch)].bfloat16())
    writer.close()
    rows = torch.cat(list(ActivationStore(tmp_path).shards()))
    assert rows.dtype == torch.float32
    expected = mean_residuals(model, CHATS, [NAMES[1]])[NAMES[1]]
    torch.testing.assert_close(rows.mean(0), expected, atol=0.02, rtol=0.02)


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    store, residuals = filled(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    shards = store.shards()
    assert torch.equal(next(shards), residuals[:10])
    with pytest.raises(ActivationError, match=r"shard-00001.* truncated or altered"):
        next(shards)


def test_an_altered_or_missing_shard_is_refused(tmp_path: Path) -> None:
    store, _residuals = filled(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ActivationError, match=r"shard-00002.* truncated or altered.* Delete .* and capture again"):
        list(store.shards())
    path.unlink()
    with pytest.raises(ActivationError, match=r"shard-00002.* is missing"):
        list(store.shards())


def test_a_shard_that_does_not_fit_its_index_is_refused(tmp_path: Path) -> None:
    store, _residuals = filled(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    for content, message in (
        ({"residuals": torch.zeros(10, 5)}, "has width 5, the store 32"),
        ({"other": torch.zeros(1)}, "cannot be read"),
    ):
        save_file(content, path)
        store.index["shards"][0]["sha256"] = file_sha256(path)
        with pytest.raises(ActivationError, match=message):
            list(store.shards())


def test_a_store_takes_only_finite_rows_of_its_width(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, NAMES[0], D_MODEL)
    for bad in (torch.zeros(3, D_MODEL + 1), torch.zeros(D_MODEL), torch.zeros(1, 2, D_MODEL)):
        with pytest.raises(ActivationError, match="do not fit a store of width 32"):
            writer.add(bad)
    with pytest.raises(ActivationError, match="not finite"):
        writer.add(torch.full((1, D_MODEL), float("nan")))
    assert writer.pending_rows == 0


def test_an_empty_store_is_an_error_and_leaves_no_index(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", NAMES[0], D_MODEL)
    writer.add(torch.zeros(0, D_MODEL))
    with pytest.raises(ActivationError, match="No residuals were captured"):
        writer.close()
    assert list((tmp_path / "store").iterdir()) == []
    with pytest.raises(ActivationError, match="is not an activation store"):
        ActivationStore(tmp_path / "store")


def test_a_store_that_was_not_closed_is_no_store(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, NAMES[0], D_MODEL, shard_rows=2)
    writer.add(torch.zeros(5, D_MODEL))
    assert (tmp_path / "shard-00001.safetensors").is_file()
    with pytest.raises(ActivationError, match=r"index\.json is missing"):
        ActivationStore(tmp_path)


def test_a_store_written_over_an_old_one_is_never_a_mixture(tmp_path: Path) -> None:
    filled(tmp_path)
    writer = StoreWriter(tmp_path, NAMES[0], D_MODEL, shard_rows=2)
    writer.add(torch.ones(3, D_MODEL))  # and the writer is killed here
    with pytest.raises(ActivationError, match="truncated or altered"):
        list(ActivationStore(tmp_path).shards())
    writer.close()
    assert torch.equal(torch.cat(list(ActivationStore(tmp_path).shards())), torch.ones(3, D_MODEL))


def test_a_damaged_index_is_a_clear_error(tmp_path: Path) -> None:
    filled(tmp_path)
    index = tmp_path / INDEX_FILE
    assert not list(tmp_path.glob("*.partial"))
    record = json.loads(index.read_text())
    assert sum(shard["rows"] for shard in record["shards"]) == 25
    assert len(load_file(tmp_path / record["shards"][2]["file"])["residuals"]) == 5
    index.write_text(index.read_text()[:40])
    with pytest.raises(ArtifactError, match=r"Cannot read .*index\.json"):
        ActivationStore(tmp_path)
