"""Hybrids of attention and recurrence, sliding windows and mixtures of experts compute and write what transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import EditError, ModelError
from interp.core.vocabulary import Phase
from interp.interventions.edits import add, project_out
from interp.interventions.export import everywhere, export_model
from interp.interventions.hooks import edited, edited_rows
from interp.models.activations import capture
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from tests.helpers.tiny import CHATS, D_MODEL, ask_all, greedy, written_ids
from tests.helpers.tiny_mixtures import MIXTURES, mixture
from tests.models.test_generation import by_hugging_face

EVERYDAY = ("qwen3_5_text", "falcon_h1", "jamba", "minimax", "gemma2", "mistral", "mixtral", "gpt_oss")
FAMILIES = [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in MIXTURES]
PLACE = "blocks.1.hook_resid_post"
VECTOR = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))


def edit_of(phase: Phase) -> Any:
    return add(VECTOR, {PLACE: 1.0}, 6.0, phase).at_sinks("edit")


def by_plain_hooks(model: LanguageModel, phase: Phase, max_new_tokens: int) -> list[list[int]]:
    """Greedy answers of transformers, a prompt at a time, with the vector added by a plain hook on block 1."""
    answers = []
    for chat, tokenised in zip(ask_all(), model.tokenise(ask_all()), strict=True):
        first, seen = (len(tokenised.ids) - 1 if phase == "response" else 0), 0

        def hook(_module: Any, _args: Any, output: Any, first: int = first) -> Any:
            nonlocal seen
            x = (output[0] if isinstance(output, tuple) else output).clone()
            x[:, max(first - seen, 0) :] += 6.0 * VECTOR / VECTOR.norm()
            seen += x.shape[1]
            return (x, *output[1:]) if isinstance(output, tuple) else x

        with model.blocks[1].register_forward_hook(hook):
            answers += by_hugging_face(model, [chat], max_new_tokens)
    return answers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_layers_reads_edits_and_samples_as_transformers(family: str) -> None:
    model = mixture(family)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers - 1)]
    (captured,) = capture(model, CHATS, names)
    logprobs = model.logprobs(CHATS)
    for row, index in enumerate(captured.rows):
        own = captured.batch.mask[row]
        with torch.inference_mode():
            alone = model.network(input_ids=captured.batch.ids[row][own][None], output_hidden_states=True)
        torch.testing.assert_close(model.read(captured.batch, last_logits=0)[row][own], alone.logits[0], atol=2e-3, rtol=1e-3)
        for layer, name in enumerate(names):
            torch.testing.assert_close(captured.residuals[name][row][own], alone.hidden_states[layer + 1][0], atol=2e-3, rtol=1e-3)
        following = captured.batch.ids[row][own][1:]
        by_hand = alone.logits[0, :-1].log_softmax(-1).gather(-1, following[:, None])[:, 0]
        torch.testing.assert_close(logprobs[index], by_hand[len(by_hand) - len(logprobs[index]) :], atol=2e-3, rtol=1e-3)

    several = [*ask_all(), *ask_all()[:2]]  # some twice, of different lengths
    plain = by_hugging_face(model, several, 10)
    assert len({tuple(answer) for answer in plain}) > 2
    assert written_ids(model, several, greedy(10)) == plain
    phases: tuple[Phase, ...] = ("all", "response")
    for phase in phases:
        expected = by_plain_hooks(model, phase, 10)
        assert expected != plain[: len(expected)]
        with edited(model, edit_of(phase)):
            assert written_ids(model, ask_all(), greedy(10)) == expected
    with edited_rows(model, [None, edit_of("response"), None, edit_of("response")]):
        rows = written_ids(model, ask_all(), greedy(10))
    assert rows == [edit if row % 2 else answer for row, (answer, edit) in enumerate(zip(plain, expected, strict=False))]
    model.network.generation_config.eos_token_id = list(range(3, 400, 9))  # rows end at different steps
    assert written_ids(model, several, greedy(10)) == by_hugging_face(model, several, 10)


@pytest.mark.parametrize("family", ["qwen3_5_text", "minimax", "gpt_oss"])
def test_an_answer_does_not_depend_on_its_batch(family: str) -> None:
    model = mixture(family)
    together = written_ids(model, [*ask_all(), *ask_all()], SamplingConfig(max_new_tokens=6))
    assert len({tuple(answer) for answer in together}) == len(together)
    assert written_ids(model, [*ask_all(), *ask_all()], SamplingConfig(max_new_tokens=6, batch_rows=1)) == together


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_exported_exactly_or_refused_in_a_sentence(family: str, tmp_path: Path) -> None:
    model = mixture(family)
    edit = project_out(VECTOR[None], dict.fromkeys(everywhere(model), torch.zeros(D_MODEL))).at_sinks("edit")
    if family in ("mistral", "qwen2"):
        check = export_model(model, edit, tmp_path / "model", CHATS)["check"]
        assert check["largest_difference"] < check["tolerance"] < check["largest_change_by_the_edit"]
    else:
        with pytest.raises(EditError, match=rf"The weights of a '{family}' are not known to carry an edit exactly"):
            export_model(model, edit, tmp_path / "model", CHATS)
        assert not (tmp_path / "model").exists()


def test_a_recurrence_that_takes_padding_for_text_is_refused() -> None:
    with pytest.raises(ModelError, match=r"RecurrentGemmaForCausalLM of transformers\) takes padding for text"):
        mixture("recurrent_gemma")


def test_a_purely_recurrent_model_is_refused_in_a_sentence() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    network = MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=D_MODEL, num_hidden_layers=2, state_size=8))
    with pytest.raises(ModelError, match="Cannot find the transformer blocks of MambaForCausalLM"):
        LanguageModel(network, mixture("mistral").tokenizer, "mamba")
