"""Latent activations of a text, aligned to its tokens."""

from __future__ import annotations

import pytest
import torch

from interp.core.errors import ActivationError
from interp.dictionaries.sae import SAE
from interp.explanation.token_latents import token_latents
from interp.models.chats import Chat
from tests.helpers.tiny import D_MODEL, tiny_model

HOOK = "blocks.1.hook_resid_post"
TEXT = "Why is the sky blue? <Put> it into hot water."


def small_sae(latents: int = 24) -> SAE:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(latents, D_MODEL, generator=generator), dim=-1)
    return SAE(rows.T.contiguous(), torch.zeros(latents), rows, torch.zeros(D_MODEL), "topk", 4, None, False, HOOK)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_activations_are_those_of_a_plain_forward_pass(family: str) -> None:
    model, sae = tiny_model(family=family), small_sae()
    found = token_latents(sae, model, TEXT)
    ids = model.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        residuals = model.network(ids, output_hidden_states=True).hidden_states[2][0]
    activations = torch.relu(residuals @ sae.directions(list(range(24))).T)
    top = activations.topk(4, dim=-1)
    expected = torch.zeros_like(activations).scatter(-1, top.indices, top.values)
    torch.testing.assert_close(found.codes.dense(), expected, rtol=1e-4, atol=1e-4)
    assert "".join(found.tokens) == model.tokenizer.decode(ids[0])
    latent = int(expected.sum(0).argmax())
    assert found.of(latent).to_numpy() == pytest.approx(expected[:, latent].numpy(), abs=1e-4)


def test_a_chat_is_read_in_its_template_with_roles() -> None:
    found = token_latents(small_sae(), tiny_model(), Chat.ask("Why?", "Because."))
    assert "user" in found.roles
    assert "response" in found.roles
    table = found.to_frame()
    assert set(table["role"]) <= {"template", "user", "response"}
    assert (table.groupby("position")["activation"].apply(lambda values: values.is_monotonic_decreasing)).all()
    assert (table["activation"] > 0).all()


def test_representations_show_every_token_and_escape_it() -> None:
    found = token_latents(small_sae(), tiny_model(), TEXT)
    assert len(repr(found).splitlines()) == len(found)
    page = found._repr_html_()
    assert "&lt;" in page
    assert "<Put>" not in page
    assert page.count("<span") == len(found)


def test_an_empty_text_and_a_latent_that_is_not_there_are_refused() -> None:
    with pytest.raises(ActivationError, match="empty"):
        token_latents(small_sae(), tiny_model(family="gpt2"), "")
    with pytest.raises(ActivationError, match="latents 0 to 23, not 24"):
        token_latents(small_sae(), tiny_model(), TEXT).of(24)
