"""Logits in parts are those of the whole pass, scaled and soft-capped as the network does it, with the same losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from interp.causality.side_effects import side_effects
from interp.interventions.edits import add
from interp.models import unembedding
from interp.models.chats import pad_left
from interp.models.language_model import LanguageModel
from interp.models.unembedding import Unembedding
from interp.organisms.training import packed_response_loss, response_loss
from tests.helpers.tiny import CHATS, IDS, logits, tiny_model, tiny_network, tiny_tokenizer
from tests.helpers.tiny_families import GROUPED

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")
ROWS = 3
NETWORKS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tiny_network("llama"),
    "gpt2": lambda: tiny_network("gpt2"),
    "gemma3": lambda: tiny_network("gemma3"),
    "soft-capped": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, final_logit_softcapping=0.5)),
    "scaled": lambda: CohereForCausalLM(CohereConfig(**GROUPED, logit_scale=0.25)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**GROUPED, logits_scaling=8.0)),
}


@contextmanager
def few_logits(monkeypatch: pytest.MonkeyPatch, network: Any) -> Iterator[None]:
    """Inside, the unembedding is refused more than `ROWS` tokens at a time."""

    def refuse(_module: Any, args: tuple[torch.Tensor]) -> None:
        assert args[0].shape[:-1].numel() <= ROWS

    with monkeypatch.context() as patched, network.get_output_embeddings().register_forward_pre_hook(refuse):
        patched.setattr(unembedding, "LOGITS", ROWS * network.config.vocab_size)
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_any_tokens_are_those_of_the_whole_pass(name: str) -> None:
    network = NETWORKS[name]().eval()
    with torch.inference_mode():
        run = Unembedding(network, {"input_ids": IDS})
        torch.testing.assert_close(run.logits(run.hidden[0, 4:9]), logits(network)[0, 4:9], atol=1e-5, rtol=1e-5)
    assert "forward" not in vars(network.base_model)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_in_parts_has_the_gradients_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = get_peft_model(NETWORKS[name](), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    weights, targets = torch.rand(IDS.shape[1]), torch.randint(5, 300, (IDS.shape[1],))
    trained = [p for p in network.parameters() if p.requires_grad]
    expected = (torch.nn.functional.cross_entropy(network(IDS).logits[0], targets, reduction="none") * weights).sum()
    with few_logits(monkeypatch, network.get_base_model()):
        run = Unembedding(network, {"input_ids": IDS})
        loss = run.loss(run.hidden[0], targets, weights)
        gradients = torch.autograd.grad(loss, trained)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for gradient, right in zip(gradients, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-5, rtol=1e-4)


def test_an_unembedding_that_is_trained_gets_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    tokenised = model.tokenise(CHATS)
    whole = response_loss(model.network, pad_left(tokenised, model.pad_id))
    (expected,) = torch.autograd.grad(whole, model.network.lm_head.weight)
    with few_logits(monkeypatch, model.network):
        (gradient,) = torch.autograd.grad(packed_response_loss(model.network, tokenised), model.network.lm_head.weight)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "soft-capped"])  # read as prefix trees, and padded
def test_logprobs_and_side_effects_do_not_depend_on_the_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(NETWORKS[name]().eval(), tiny_tokenizer(), name)
    edit = add(torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), {"blocks.1.hook_resid_post": 1.0}, 0.5)
    whole, costs = model.logprobs(CHATS), side_effects(model, [edit], CHATS)
    with few_logits(monkeypatch, model.network):
        torch.testing.assert_close(model.logprobs(CHATS), whole, atol=1e-5, rtol=1e-5)
        in_parts = side_effects(model, [edit], CHATS)
    assert in_parts.kl == pytest.approx(costs.kl, rel=1e-4)
    assert in_parts.loss_after == pytest.approx(costs.loss_after, rel=1e-4)
