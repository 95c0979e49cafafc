"""Captured residuals are Hugging Face's hidden states, and capture stops early."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from interp.core.errors import ActivationError, HookPointError
from interp.models.activations import capture, capture_batch, content_tokens, mean_residuals, median_residual_norm, response_phase
from interp.models.chats import Chat, Role
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from tests.helpers.tiny import FAMILIES, N_LAYERS, QUESTIONS, ask_all, tiny_model

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
        model.blocks[layer].mlp.register_forward_pre_hook(lambda _module, _args, layer=layer: ran.append(layer))
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
