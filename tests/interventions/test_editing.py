"""Edits equal their closed forms, mean the same with and without a cache and in any batch, and refuse what changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch

from interp.core.errors import EditError, EditWarning, HookPointError
from interp.core.vocabulary import Phase
from interp.interventions.edits import Edit, add, project_out, random_directions
from interp.interventions.hooks import edited, edited_rows
from interp.models.activations import capture, capture_batch
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.hook_points import resid_post
from tests.helpers.edits_by_hand import CHATS, PHASES, WINDOW, adding, by_hand, closed_form, gated, greedy_by_hand, projecting, setting
from tests.helpers.tiny import D_MODEL, FAMILIES, ask_all, greedy, tiny_model, written_ids


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("make", [adding, projecting])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_residual_is_edited_by_the_closed_form_in_its_phase_alone(
    make: Callable[..., Edit], phase: Phase, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONASCOPE_CPU_FAST_PATHS", "0")  # padding is compared too
    model = tiny_model(1)
    edit = make(phase, names=[resid_post(1)])
    plain = {c.rows[0]: c for c in capture(model, CHATS, [resid_post(1)], rows=rows)}
    with edited(model, edit):
        found = {c.rows[0]: c for c in capture(model, CHATS, [resid_post(1)], rows=rows)}
    for first, captured in found.items():
        before, after = plain[first].residuals[resid_post(1)], captured.residuals[resid_post(1)]
        expected = closed_form(edit, 0, before)
        columns = torch.arange(before.shape[1])
        for row in range(len(before)):
            response = columns >= captured.batch.response_start[row]
            mine = captured.batch.mask[row] & {"all": response | True, "response": response, "prompt": ~response}[phase]
            torch.testing.assert_close(after[row][mine], expected[row][mine], atol=1e-5, rtol=1e-5)
            assert torch.equal(after[row][~mine], before[row][~mine])
            assert not torch.allclose(after[row][mine], before[row][mine], atol=0.1)


def test_a_projection_holds_its_span_at_the_centre_and_leaves_the_rest() -> None:
    model = tiny_model(1)
    directions, centre = torch.randn(5, D_MODEL), torch.randn(D_MODEL)
    edit = project_out(directions, {resid_post(1): centre})
    (plain,) = capture(model, CHATS, [resid_post(1)])
    with edited(model, edit), edited(model, edit):  # twice is once
        (found,) = capture(model, CHATS, [resid_post(1)])
    before, after = (c.residuals[resid_post(1)][c.batch.mask] for c in (plain, found))
    torch.testing.assert_close(after @ directions.T, (centre @ directions.T).expand(len(after), -1), atol=1e-4, rtol=1e-4)
    others = torch.linalg.svd(directions)[2][5:]  # a basis of what the directions do not span
    torch.testing.assert_close(after @ others.T, before @ others.T, atol=1e-5, rtol=1e-5)


def test_the_dose_is_relative_to_the_median_norm_at_each_hook_point() -> None:
    edit = add(torch.full((D_MODEL,), -3.0), {resid_post(0): 10.0, resid_post(2): 40.0}, dose=0.25)
    assert edit.vectors.shape == (2, 1, D_MODEL)
    torch.testing.assert_close(edit.vectors[:, 0].norm(dim=-1), torch.tensor([2.5, 10.0]))
    assert (edit.vectors < 0).all()
    assert (edit.phase, edit.dose) == ("response", 0.25)


def test_pre_of_a_block_is_post_of_the_one_before() -> None:
    model = tiny_model(2)
    (_indices, batch) = next(model.batches(CHATS))
    for make in (adding, projecting):
        with edited(model, make("response", names=[resid_post(0)])):
            post = model.read(batch)
        with edited(model, make("response", names=["blocks.1.hook_resid_pre"])):
            assert torch.equal(model.read(batch), post)


def test_edits_act_in_the_order_given() -> None:
    model = tiny_model(2)
    name = resid_post(1)
    first, second = adding("all", names=[name]), project_out(random_directions(1, D_MODEL, 0), {name: torch.zeros(D_MODEL)})
    ((_indices, batch),) = model.batches(CHATS)
    for edits in ((first, second), (second, first)):
        expected = capture_batch(model, batch, [name], range(4)).residuals[name]
        for edit in edits:
            expected = closed_form(edit, 0, expected)
        with edited(model, *edits):
            found = capture_batch(model, batch, [name], range(4)).residuals[name]
        torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("make", "phase"), [(adding, "response"), (adding, "prompt"), (projecting, "all")])
def test_cached_padded_generation_equals_whole_passes_edited_by_hand(family: str, make: Callable[..., Edit], phase: Phase) -> None:
    model = tiny_model(3, family)
    edit = make(phase)
    expected = [greedy_by_hand(model, chat, edit) for chat in ask_all()]
    assert expected != [greedy_by_hand(model, chat) for chat in ask_all()]
    with edited(model, edit):
        assert written_ids(model, ask_all(), greedy(8)) == expected
        assert written_ids(model, ask_all(), greedy(8, batch_rows=1)) == expected


def mixed_rows() -> tuple[list[Chat], list[Edit | None]]:
    """16 rows: equal and different prompts under every kind and phase, different ranks, and none."""
    edits: list[Edit | None] = [None]
    edits += [adding(phase, seed) for phase in PHASES for seed in (1, 2)]
    edits += [projecting(phase, seed=seed, n=n) for phase in PHASES for seed, n in ((3, 1), (4, 9))]
    edits += [None, adding("response", 5, names=[resid_post(2)]), adding("response", 1, dose=0.5)]
    return [ask_all()[(i * 3) % 4 if i % 2 else 1] for i in range(16)], edits


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_different_edit_in_every_row_equals_one_at_a_time(family: str) -> None:
    model = tiny_model(4, family)
    chats, edits = mixed_rows()
    assert len(chats) == len(edits) == 16
    expected = []
    for chat, edit in zip(chats, edits, strict=True):
        with ExitStack() as stack:
            if edit is not None:
                stack.enter_context(edited(model, edit))
            expected += written_ids(model, [chat], greedy(8))
        assert expected[-1] == greedy_by_hand(model, chat, *[edit] if edit else [])
    assert len({tuple(answer) for answer in expected}) > 12
    for batch_rows in (16, 5, 1):
        with edited_rows(model, edits):
            assert written_ids(model, chats, greedy(8, batch_rows)) == expected


def test_rows_that_stop_early_leave_the_others_their_own_edits() -> None:
    model = tiny_model(5)
    chats, edits = mixed_rows()
    model.network.generation_config.eos_token_id = list(range(3, 400, 6))
    expected = [greedy_by_hand(model, chat, *[edit] if edit else [], n=12) for chat, edit in zip(chats, edits, strict=True)]
    assert len({len(answer) for answer in expected}) > 3
    with edited_rows(model, edits):
        assert written_ids(model, chats, greedy(12)) == expected


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_logprobs_of_edited_rows_follow_the_row_not_its_place_in_the_batch(rows: int) -> None:
    model = tiny_model(4)
    prompts, edits = mixed_rows()
    chats = [Chat((*chat.messages, CHATS[i % 4].messages[-1])) for i, chat in enumerate(prompts)]
    with edited_rows(model, edits):
        found = model.logprobs(chats, rows)
    for chat, edit, mine in zip(chats, edits, found, strict=True):
        tokenised = model.tokenise([chat])[0]
        with torch.inference_mode(), by_hand(model, [edit] if edit else [], tokenised.n_prompt):
            logprobs = model.network(input_ids=torch.tensor([tokenised.ids])).logits[0].log_softmax(-1)
        expected = logprobs[:-1].gather(-1, torch.tensor(tokenised.ids[1:])[:, None])[tokenised.n_prompt - 1 :, 0]
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [adding, projecting, setting, gated])
def test_leaving_restores_the_model_bit_for_bit(make: Callable[..., Edit]) -> None:
    model = tiny_model(1)
    ((_indices, batch),) = model.batches(CHATS)
    plain = model.read(batch)
    with edited(model, make()):
        assert not torch.equal(model.read(batch), plain)
    assert torch.equal(model.read(batch), plain)
    with edited_rows(model, [None, make()] * 2):
        changed = model.read(batch)
    assert torch.equal(changed[[0, 2]], plain[[0, 2]])
    assert not torch.equal(changed[[1, 3]], plain[[1, 3]])
    for context in (edited(model, make()), edited_rows(model, [make()] * 4)):
        with pytest.raises(KeyError, match="of the caller"), context:
            raise KeyError("of the caller")
    assert model.prompt_signatures is None
    assert torch.equal(model.read(batch), plain)


def test_edits_that_would_change_nothing_are_refused() -> None:
    norms, centres = {WINDOW[0]: 4.0}, {WINDOW[0]: torch.zeros(D_MODEL)}
    unit = random_directions(3, D_MODEL, 0)
    for direction in (torch.zeros(D_MODEL), torch.full((D_MODEL,), float("nan"))):
        with pytest.raises(EditError, match=r"is zero|not finite"):
            add(direction, norms, 1.0)
        with pytest.raises(EditError, match=r"is zero|not finite"):
            project_out(torch.stack([unit[0], direction]), centres)
    for dose in (0.0, -0.5, float("nan"), float("inf")):
        with pytest.raises(EditError, match="Give a positive dose"):
            add(unit[0], norms, dose)
    for norm in (0.0, float("nan")):
        with pytest.raises(EditError, match="unit of doses"):
            add(unit[0], {WINDOW[0]: norm}, 1.0)
    for no_place in (lambda: add(unit[0], {}, 1.0), lambda: project_out(unit, {})):
        with pytest.raises(EditError, match="without a hook point"):
            no_place()
    with pytest.raises(EditError, match="is zero"):
        project_out(torch.zeros(0, D_MODEL), centres)
    for centre in (torch.zeros(D_MODEL + 1), torch.full((D_MODEL,), float("nan"))):
        with pytest.raises(EditError, match="centre"):
            project_out(unit, {WINDOW[0]: centre})


@pytest.mark.parametrize("make", [adding, projecting])
def test_a_phase_that_does_not_exist_is_refused(make: Callable[..., Edit]) -> None:
    with pytest.raises(EditError, match=r"no phase 'decode'. Use prompt, response, all"):
        make("decode")


@pytest.mark.parametrize(
    "directions",
    [
        random_directions(1, D_MODEL, 0).repeat(2, 1),
        torch.stack([random_directions(1, D_MODEL, 0)[0], -1e-3 * random_directions(1, D_MODEL, 0)[0]]),
        torch.cat([random_directions(2, D_MODEL, 0), random_directions(2, D_MODEL, 0).sum(0, keepdim=True)]),
        random_directions(D_MODEL + 1, D_MODEL, 0),
    ],
)
def test_dependent_directions_are_refused(directions: torch.Tensor) -> None:
    with pytest.raises(EditError, match="depend on one another"):
        project_out(directions, {WINDOW[0]: torch.zeros(D_MODEL)})


def test_an_edit_that_touched_no_token_says_so() -> None:
    model = tiny_model()
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    chats = ask_all(["W"])  # one token: it is the first of the response phase, and nothing is left for the prompt
    assert len(model.tokenise(chats)[0].ids) == 1
    for enter in (lambda: edited(model, adding("prompt")), lambda: edited_rows(model, [adding("prompt")])):
        with pytest.raises(EditError, match="touched no token: none was in its phase 'prompt'"), enter():
            generate(model, chats, greedy(3), seed=0)
    with pytest.raises(EditError, match="touched no token"), edited_rows(model, [None, adding()]):
        generate(model, chats, greedy(3), seed=0)  # the one row that was read has no edit
    with pytest.warns(EditWarning, match="not run inside") as said, edited(model, adding("prompt")):
        generate(tiny_model(), chats, greedy(3), seed=0)  # another model
    assert said[0].filename == __file__


def test_edits_the_model_cannot_take_are_refused_on_entering() -> None:
    model = tiny_model()
    for enter in (edited, lambda model, edit: edited_rows(model, [None, edit])):
        with pytest.raises(HookPointError, match="Did you mean"), enter(model, adding(names=["blocks.9.hook_resid_post"])):
            pytest.fail("entered")
        with pytest.raises(EditError, match="width 16, tiny-llama has 32"), enter(model, adding(width=16)):
            pytest.fail("entered")
        assert all(not block._forward_hooks for block in model.blocks)
        assert model.prompt_signatures is None


@pytest.mark.parametrize("n_edits", [1, 2])
@pytest.mark.parametrize("phase", ["response", "prompt"])
def test_edits_for_too_few_rows_are_refused(n_edits: int, phase: Phase) -> None:
    model = tiny_model()
    runs = (
        lambda: generate(model, ask_all(), greedy(2), seed=0),
        lambda: generate(model, ask_all(), greedy(2, batch_rows=1), seed=0),
        lambda: model.logprobs(CHATS),
        lambda: list(capture(model, CHATS, [resid_post(2)])),
    )
    for run in runs:
        with (
            pytest.raises(EditError, match=f"edits for {n_edits} rows, and the model reads row"),
            edited_rows(model, [adding(phase)] * n_edits),
        ):
            run()
    assert model.prompt_signatures is None


def test_edited_rows_cannot_be_nested_nor_be_empty() -> None:
    model = tiny_model()
    with edited_rows(model, [adding()]), pytest.raises(EditError, match="cannot be nested"), edited_rows(model, [adding()]):
        pytest.fail("entered")
    for none in ([], [None, None]):
        with pytest.raises(EditError, match="No row has an edit"), edited_rows(model, none):
            pytest.fail("entered")


def test_a_bare_forward_pass_needs_an_edit_of_all_tokens() -> None:
    model = tiny_model(1)
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        with by_hand(model, [adding("all")], 0):
            expected = model.network(ids).logits
        with edited(model, adding("all").at_sinks("edit")):
            torch.testing.assert_close(model.network(ids).logits, expected, atol=1e-5, rtol=1e-5)
        for telling in (adding("all"), adding("response").at_sinks("edit")):
            with pytest.raises(EditError, match="where the tokens stand"), edited(model, telling):
                model.network(ids)
        with pytest.raises(EditError, match="where the tokens stand"), edited_rows(model, [adding("all"), None]):
            model.network(ids)


def test_random_directions_have_norm_one_and_follow_the_seed() -> None:
    drawn = random_directions(200, D_MODEL, 3)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(200))
    assert torch.equal(drawn, random_directions(200, D_MODEL, 3))
    assert not torch.equal(drawn, random_directions(200, D_MODEL, 4))
    assert drawn.mean(0).norm() < 0.2  # uniform on the sphere: 1 / √200 expected
