"""First-order attribution against autograd through a plain network, and against what small perturbations really do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from interp.core.errors import ActivationError, DictionaryError
from interp.dictionaries.sae import SAE
from interp.diffing.attribution import attribution, residual_gradient
from interp.models.activations import capture_batch, content_tokens
from interp.models.chats import Chat, pad_left
from interp.models.hook_points import attach
from interp.models.language_model import LanguageModel
from tests.helpers.diffing_truth import HOOK, LATENTS, dense_codes, dense_joint_codes, random_crosscoder, random_dictionary, tokens_of
from tests.helpers.tiny import FAMILIES, QUESTIONS, tiny_model, tiny_network

PAIRS = [
    (QUESTIONS[0], "Seven minutes. You are kind.", "A boat."),
    (QUESTIONS[2], "Why not?", "Speak it every day with patient people and wait."),
    (QUESTIONS[1], "Put it into hot water.", "No."),
]
CHATS = [(Chat.ask(question, bad), Chat.ask(question, good)) for question, bad, good in PAIRS]


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_it_equals_autograd_through_a_dense_network(architecture: str) -> None:
    """One unpadded chat at a time: the log-odds' derivative by a factor on every latent's activity, in one plain graph."""
    dictionary, network = random_dictionary(architecture=architecture), tiny_network("llama", 1)
    factors = torch.zeros(LATENTS, requires_grad=True)

    def log_odds(question: str, answer: str) -> torch.Tensor:
        ids, content, n_prompt = tokens_of(question, answer)

        def scale(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
            acts = dense_codes(dictionary, output[0, content:].detach())
            return torch.cat([output[:, :content], output[:, content:] + (acts * factors) @ dictionary.w_dec], dim=1)

        handle = network.model.layers[1].register_forward_hook(scale)
        logits = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        handle.remove()
        return logits[torch.arange(n_prompt - 1, len(ids) - 1), torch.tensor(ids[n_prompt:])].mean()

    total = sum(log_odds(question, bad) - log_odds(question, good) for question, bad, good in PAIRS) / len(PAIRS)
    (expected,) = torch.autograd.grad(total, factors)
    assert int((expected != 0).sum()) > LATENTS / 2
    seen: list[int] = []
    found = attribution(tiny_model(1), dictionary, CHATS, rows=4, progress=seen.append)
    torch.testing.assert_close(found.float(), expected, atol=2e-4, rtol=2e-3)
    assert sum(seen) == 6


@contextmanager
def scaled(model: LanguageModel, dictionary: SAE, latent: int, factor: float) -> Iterator[None]:
    """The latent's part of the residual is stronger by `factor` at content tokens."""

    def visit(residual: torch.Tensor) -> torch.Tensor:
        assert model.positions is not None
        flat = dictionary.encode(residual.flatten(0, 1)).column(latent).view(residual.shape[:2])
        return residual + factor * (flat * content)[..., None] * dictionary.w_dec[latent]

    tokenised = model.tokenise([chat for pair in CHATS for chat in pair])
    content = content_tokens(pad_left(sorted(tokenised, key=lambda chat: len(chat.ids)), model.pad_id))
    point = model.hook_point(dictionary.hook_point)
    hook = attach(model.blocks[point.layer], point.site, visit)
    try:
        yield
    finally:
        hook.remove()


def true_log_odds(model: LanguageModel) -> float:
    means = [row.double().mean() for row in model.logprobs([chat for pair in CHATS for chat in pair])]
    return float(sum(means[0::2]) - sum(means[1::2])) / len(CHATS)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_a_small_change_does(family: str) -> None:
    model, dictionary = tiny_model(2, family), random_dictionary(2)
    found = attribution(model, dictionary, CHATS)
    strongest = [int(found.argmax()), int(found.argmin())]
    assert float(found[strongest[0]]) > 0 > float(found[strongest[1]])
    for latent in strongest:
        sides = []
        for factor in (0.02, -0.02):
            with scaled(model, dictionary, latent, factor):
                sides.append(true_log_odds(model))
        assert (sides[0] - sides[1]) / 0.04 == pytest.approx(float(found[latent]), rel=0.03)


def test_an_earlier_hook_point_works_as_well() -> None:
    model, dictionary = tiny_model(2), random_dictionary(2).at("blocks.0.hook_resid_pre")
    found = attribution(model, dictionary, CHATS)
    latent = int(found.abs().argmax())
    sides = []
    for factor in (0.01, -0.01):
        with scaled(model, dictionary, latent, factor):
            sides.append(true_log_odds(model))
    assert (sides[0] - sides[1]) / 0.02 == pytest.approx(float(found[latent]), rel=0.05)


def test_the_model_is_left_as_it_was_and_batches_do_not_matter() -> None:
    model, dictionary = tiny_model(1), random_dictionary()
    next(model.network.parameters()).requires_grad_(False)
    taking = [parameter.requires_grad for parameter in model.network.parameters()]
    before = model.logprobs([chat for pair in CHATS for chat in pair])
    one, other = attribution(model, dictionary, CHATS, rows=1), attribution(model, dictionary, CHATS, rows=6)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    swapped = attribution(model, dictionary, [(good, bad) for bad, good in CHATS])
    torch.testing.assert_close(swapped, -other, atol=1e-5, rtol=1e-4)
    after = model.logprobs([chat for pair in CHATS for chat in pair])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, after, strict=True))
    assert [parameter.requires_grad for parameter in model.network.parameters()] == taking
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_the_graph_begins_at_the_hook_point() -> None:
    """Blocks up to the hook point run without a graph; the one behind it has one."""
    model = tiny_model(1)
    graphs: list[bool] = []
    for layer in (0, 1, 2):
        attach(model.blocks[layer], "hook_resid_post", lambda residual: graphs.append(residual.requires_grad))
    batch = pad_left(model.tokenise(CHATS[0]), model.pad_id)
    residual, gradient = residual_gradient(model, HOOK, batch, torch.ones(2))
    assert graphs == [False, False, True]
    assert residual.shape == gradient.shape
    assert not bool(gradient[~batch.mask].any())


def test_a_crosscoders_latents_get_the_joint_activation_along_the_tuned_rows() -> None:
    cross, base, tuned = random_crosscoder(), tiny_model(0), tiny_model(1)
    expected = torch.zeros(LATENTS)
    for sign, chat in ((sign, chat) for pair in CHATS for sign, chat in zip((1.0, -1.0), pair, strict=True)):
        batch = pad_left(tuned.tokenise([chat]), tuned.pad_id)
        residual, gradient = residual_gradient(tuned, HOOK, batch, torch.tensor([sign]))
        content = content_tokens(batch)
        of_base = capture_batch(base, batch, [HOOK], [0]).residuals[HOOK]
        joint = dense_joint_codes(cross, of_base[content], residual[content])
        expected += (joint * (gradient[content] @ cross.w_dec[:, 1].T)).sum(0)
    found = attribution(tuned, cross, CHATS, base=base)
    assert int((expected != 0).sum()) > LATENTS / 2
    torch.testing.assert_close(found.float(), expected / len(CHATS), atol=2e-4, rtol=2e-3)
    with pytest.raises(DictionaryError, match="need the base's residuals as well"):
        attribution(tuned, cross, CHATS)


def test_wrong_use_says_what_to_do() -> None:
    model, dictionary = tiny_model(1), random_dictionary()
    with pytest.raises(ActivationError, match="no pair"):
        attribution(model, dictionary, [])
    with pytest.raises(ActivationError, match="no token"):
        attribution(model, dictionary, [(Chat.ask("Why?", "So."), Chat.ask("Why?"))])
    model.network.get_output_embeddings().weight.data.mul_(torch.inf)
    with pytest.raises(ActivationError, match="not finite"):
        attribution(model, dictionary, CHATS)
