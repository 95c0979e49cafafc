"""Chats packed in one row have the loss and the gradients that they have in a padded batch; models that cannot be packed are known."""

from __future__ import annotations

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, MambaConfig, MambaForCausalLM

from interp.models.activations import capture
from interp.models.chats import Chat, pad_left
from interp.models.cpu.prefix_trees import can_pack_chats, pack_chats
from interp.models.hook_points import attach
from interp.models.language_model import LanguageModel
from interp.organisms.training import packed_response_loss, response_loss
from tests.helpers.tiny import QUESTIONS, tiny_network
from tests.helpers.tiny_families import NETWORKS, WIDE, made

WITH_SYSTEM = [Chat.ask(question, "Put it into hot water." * (1 + i % 3), "You are kind.") for i, question in enumerate(QUESTIONS)]
APART = [Chat.ask("egg", "No."), Chat.ask("How do I boil an egg?", "Wait for seven minutes.")]
SAME_PROMPT = [Chat.ask("Why?", answer) for answer in ("The air scatters.", "The air", "The air scatters short waves.")]


def gradients(model: LanguageModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("mistral", "gemma2")])
@pytest.mark.parametrize("chats", [WITH_SYSTEM, APART, SAME_PROMPT, APART[:1]], ids=["system", "apart", "same prompt", "one"])
def test_loss_and_gradients_are_those_of_the_padded_batch(name: str, chats: list[Chat]) -> None:
    model = made(name)
    assert can_pack_chats(model.network)
    tokenised = model.tokenise(chats)
    packed = packed_response_loss(model.network, tokenised)
    padded = response_loss(model.network, pad_left(tokenised, model.pad_id))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    expected = gradients(model, padded)
    for parameter, gradient in gradients(model, packed).items():
        torch.testing.assert_close(gradient, expected[parameter], atol=1e-4, rtol=1e-3)


def test_a_beginning_stands_once_and_each_token_sees_its_own_chat_alone() -> None:
    packed = pack_chats([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7]], torch.nn.Linear(1, 1))
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert [places.tolist() for places in packed.places] == [[0, 1, 2, 3], [0, 1, 4], [0, 1, 2]]
    assert (packed.attention_mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("row_tokens", [1, 7, 20, 1000])
def test_residuals_and_logprobs_do_not_depend_on_the_rows(row_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.models.cpu.prefix_trees.ROW_TOKENS", row_tokens)
    model, chats, point = made("llama, tied"), [*WITH_SYSTEM, *APART, *SAME_PROMPT], "blocks.1.hook_resid_post"
    assert model.packs_chats()
    (packed,), logprobs = capture(model, chats, [point]), model.logprobs(chats)
    monkeypatch.setenv("PERSONASCOPE_CPU_FAST_PATHS", "0")
    assert not model.packs_chats()
    (padded,) = capture(model, chats, [point])
    mask = padded.batch.mask
    torch.testing.assert_close(packed.residuals[point][mask], padded.residuals[point][mask], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logprobs, model.logprobs(chats), atol=1e-4, rtol=1e-4)


def test_a_hooked_model_reads_a_row_a_chat() -> None:
    model, shapes = made("llama"), []
    hook = attach(model.blocks[0], "hook_resid_post", lambda residual: shapes.append(residual.shape[0]))
    list(capture(model, WITH_SYSTEM, ["blocks.1.hook_resid_post"]))
    hook.remove()
    assert shapes == [len(WITH_SYSTEM)]


def test_recurrent_windowed_and_biased_attention_is_not_packed() -> None:
    shape = {key: WIDE[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    windowed = Gemma3ForCausalLM(Gemma3TextConfig(**WIDE, num_key_value_heads=2, head_dim=8, sliding_window=8))
    for network in (MambaForCausalLM(MambaConfig(**shape)), BloomForCausalLM(BloomConfig(**shape, n_head=4)), windowed):
        assert not can_pack_chats(network)
    assert can_pack_chats(tiny_network("llama"))
