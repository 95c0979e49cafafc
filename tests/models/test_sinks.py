"""Attention sinks: where they are by plain transformers, and that edits and means leave them alone with and without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.core.errors import EditError
from interp.core.vocabulary import SinkTokens
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited, edited_rows
from interp.models.activations import capture, content_tokens, mean_residuals, response_phase
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from interp.models.sinks import SINK_LAYERS, SINK_RATIO, sink_mask
from tests.helpers.edits_by_hand import CHATS, adding, gated, greedy_by_hand, projecting, setting
from tests.helpers.tiny import FAMILIES, START, greedy, tiny_model, written_ids

PROMPTS = [chat.prompt for chat in CHATS]


def with_sinks(family: str = "llama") -> LanguageModel:
    """A tiny model whose token <|im_start|> has a residual many times as long as all others."""
    model = tiny_model(1, family)
    with torch.no_grad():
        model.network.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids(START)] *= 300
    return model


def sinks_by_hand(model: LanguageModel, ids: list[int]) -> tuple[int, ...]:
    """By the hidden states of plain transformers; the last one is left out, for it is normalised."""
    with torch.inference_mode():
        states = model.network(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[1:-1]
    norms = [state[0].norm(dim=-1) for state in states]
    outstanding = [sum(bool(own[place] > SINK_RATIO * own.median()) for own in norms) for place in range(len(ids))]
    return tuple(place for place, layers in enumerate(outstanding) if layers >= SINK_LAYERS * model.n_layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_sinks_are_those_of_plain_transformers(family: str) -> None:
    model = with_sinks(family)
    prompts = [tuple(chat.ids) for chat in model.tokenise(PROMPTS)]
    expected = [sinks_by_hand(model, list(ids)) for ids in prompts]
    assert model.sinks(prompts) == expected
    start = model.tokenizer.convert_tokens_to_ids(START)
    assert expected == [tuple(place for place, token in enumerate(ids) if token == start) for ids in prompts]
    assert tiny_model(1, family).sinks(prompts) == [()] * len(prompts)


@pytest.mark.parametrize("make", [adding, projecting, setting, gated])
@pytest.mark.parametrize("sinks", ["spare", "edit", "only"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_with_edits_are_those_of_plain_passes_without_a_cache(family: str, sinks: SinkTokens, make: type[Edit]) -> None:
    model = with_sinks(family)
    edit = make("all").at_sinks(sinks)
    expected = []
    for prompt in PROMPTS:
        ids = model.tokenise([prompt])[0].ids
        expected.append(greedy_by_hand(model, prompt, edit, sinks=sinks_by_hand(model, ids[:-1])))
    with edited(model, edit):
        assert written_ids(model, PROMPTS, greedy(8)) == expected
    with edited_rows(model, [edit] * len(PROMPTS)):  # what the prompts begin with is read once
        assert written_ids(model, PROMPTS, greedy(8)) == expected


def test_reading_and_capturing_leave_sinks_as_they_are() -> None:
    model, point = with_sinks(), resid_post(1)
    plain = {captured.rows[0]: captured for captured in capture(model, CHATS, [point], rows=1)}
    with edited(model, projecting(names=[point])):
        changed = {captured.rows[0]: captured for captured in capture(model, CHATS, [point], rows=1)}
    for row, before in plain.items():
        after = changed[row].residuals[point]
        assert before.sinks.sum() == 2  # two turns
        prompt = before.sinks & (torch.arange(before.sinks.shape[1]) < before.batch.response_start[:, None])
        assert torch.equal(after[prompt], before.residuals[point][prompt])
        assert not torch.isclose(after[~prompt], before.residuals[point][~prompt], atol=1e-3).all(-1).any()
    for where in (content_tokens, response_phase, lambda batch: batch.mask):
        chosen = [c.residuals[point][where(c.batch) & (c.residuals[point].norm(dim=-1) < 50)] for c in plain.values()]
        expected = torch.cat(chosen).mean(0)
        torch.testing.assert_close(mean_residuals(model, CHATS, [point], where)[point], expected, atol=1e-4, rtol=1e-4)


def test_a_fine_tune_has_the_sinks_of_its_base() -> None:
    base, tuned = with_sinks(), tiny_model(1)
    tuned.base = base
    prompts = [tuple(chat.ids) for chat in tuned.tokenise(PROMPTS)]
    assert tuned.sinks(prompts) == base.sinks(prompts) != tiny_model(1).sinks(prompts)


def test_plain_text_has_its_sinks_left_alone_too() -> None:
    model, point = with_sinks(), resid_post(1)
    text = f"{START}How do I boil an egg? Put it into hot water."
    (before,) = capture(model, [text], [point])  # type: ignore[list-item]
    with edited(model, projecting(names=[point])):
        (after,) = capture(model, [text], [point])  # type: ignore[list-item]
    same = torch.isclose(after.residuals[point], before.residuals[point]).all(-1)
    assert same[0].nonzero()[:, 0].tolist() == [0]


def test_an_edit_of_sinks_alone_needs_one() -> None:
    model = tiny_model(1)
    with pytest.raises(EditError, match=r"touched no token: .* and an attention sink"), edited(model, projecting().at_sinks("only")):
        generate(model, PROMPTS, greedy(2), 0)


def test_what_an_edit_does_at_sinks_is_part_of_it() -> None:
    edit = projecting()
    assert len({edit.key, edit.at_sinks("edit").key, edit.at_sinks("only").key}) == 3
    assert replace(edit, sinks="spare").key == edit.key
    assert edit.as_json()["sinks"] == "spare"


def test_a_sink_stands_out_at_a_third_of_the_layers() -> None:
    norms = torch.ones(12, 2, 5)
    norms[3:7, 0, 2] = 1.1 * SINK_RATIO
    norms[3:6, 0, 4] = 100 * SINK_RATIO  # a word, at a few layers
    norms[:, 1, 3] = 0.9 * SINK_RATIO
    norms[:, 1, 0] = 1e6  # padding
    mask = torch.tensor([[True] * 5, [False] + [True] * 4])
    assert sink_mask(norms, mask, 12).nonzero().tolist() == [[0, 2]]
    assert not sink_mask(norms, mask, 13).any()  # four are less than a third
    assert not sink_mask(torch.ones(2, 1, 1), torch.ones(1, 1, dtype=torch.bool), 2).any()


def test_an_empty_prompt_has_none() -> None:
    assert tiny_model(1).sinks([(), (5, 6, 7)]) == [(), ()]
    assert Chat.ask("Why?").response is None
