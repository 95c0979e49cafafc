"""Edits of latents, conditional and composed ones equal dense arithmetic by hand in every family and batch, and none is silently void."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import EditError, EditWarning, HookPointError
from interp.interventions.edits import Edit, add, clamp_latents, project_out
from interp.interventions.groups import LatentReader
from interp.interventions.hooks import edited, edited_rows
from interp.models.activations import capture_batch
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from tests.helpers.diffing_truth import random_crosscoder
from tests.helpers.edits_by_hand import (
    ARCHITECTURES,
    CHATS,
    N_LATENTS,
    WINDOW,
    activations,
    adding,
    by_hand,
    closed_form,
    gated,
    greedy_by_hand,
    projecting,
    setting,
    small_dictionary,
    subtracting,
)
from tests.helpers.tiny import D_MODEL, FAMILIES, ask_all, greedy, tiny_model, written_ids

POINT = resid_post(1)


def residuals(model: LanguageModel, *edits: Edit, name: str = POINT) -> torch.Tensor:
    """Residuals of all tokens of all chats, `[token, d_model]`."""
    ((indices, batch),) = model.batches(CHATS)
    with edited(model, *edits):
        return capture_batch(model, batch, [name], indices).residuals[name][batch.mask]


def rows_of_all_kinds() -> tuple[list[Chat], list[Edit | tuple[Edit, ...] | None]]:
    """16 rows: latents of every architecture, conditions, pairs and triples, beside plain ones."""
    edits: list[Edit | tuple[Edit, ...] | None] = [
        *(setting("response", architecture=architecture) for architecture in ARCHITECTURES),
        setting("all", 1),
        subtracting("prompt"),
        gated("response", architecture="topk"),
        gated("all"),
        (setting("all"), adding("response", 1)),
        (adding("response", 1), setting("all")),
        (adding("all", 2), gated("all"), projecting("response")),
        (projecting("all", 3, n=2), subtracting("all", names=[resid_post(2)])),
        (setting("prompt", 2), setting("response", 3, "gated")),
        None,
        setting("response").only_where(small_dictionary("standard").at(WINDOW[0]), 5),
        setting("response", 2, names=[POINT]),
    ]
    return [ask_all()[(i * 3) % 4 if i % 2 else 1] for i in range(len(edits))], edits


def as_tuple(entry: Edit | Sequence[Edit] | None) -> tuple[Edit, ...]:
    return (entry,) if isinstance(entry, Edit) else tuple(entry or ())


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_padded_rows_with_edits_of_all_kinds_equal_whole_passes_by_hand(family: str) -> None:
    model = tiny_model(4, family)
    chats, edits = rows_of_all_kinds()
    expected = [greedy_by_hand(model, chat, *as_tuple(entry), n=6) for chat, entry in zip(chats, edits, strict=True)]
    assert len({tuple(answer) for answer in expected}) > 11
    with edited_rows(model, edits):
        assert model.prompt_signatures is not None
        assert len(set(model.prompt_signatures)) == 8  # what is only done to the response needs no prompt of its own
        assert written_ids(model, chats, greedy(6)) == expected
        assert written_ids(model, chats, greedy(6, batch_rows=1)) == expected


@pytest.mark.parametrize("place", range(16))
def test_one_edit_of_all_rows_is_the_same_as_in_each_row(place: int) -> None:
    model = tiny_model(4)
    _chats, edits = rows_of_all_kinds()
    expected = [greedy_by_hand(model, chat, *as_tuple(edits[place]), n=4) for chat in ask_all()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", EditWarning)
        with edited(model, *as_tuple(edits[place])):
            assert written_ids(model, ask_all(), greedy(4)) == expected


def test_where_to_look_is_to_wait_the_same_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.interventions.groups.FREE_TO_LOOK", ())  # as on a GPU
    model = tiny_model(4)
    chats, edits = rows_of_all_kinds()
    expected = [greedy_by_hand(model, chat, *as_tuple(entry), n=4) for chat, entry in zip(chats, edits, strict=True)]
    with edited_rows(model, edits):
        assert written_ids(model, chats, greedy(4)) == expected


@settings(max_examples=30)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    latents=st.lists(st.integers(0, N_LATENTS - 1), min_size=1, max_size=6, unique=True),
    value=st.floats(-8, 8, width=32),
    seed=st.integers(0, 3),
)
def test_only_the_contribution_of_the_latents_changes(architecture: str, latents: list[int], value: float, seed: int) -> None:
    model, dictionary = tiny_model(1), small_dictionary(architecture, seed)
    before = residuals(model)
    codes = activations(dictionary, before)
    set_to = codes.clone()
    set_to[:, latents] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EditWarning)  # latents that do not fire, subtracted
        after = residuals(model, clamp_latents(dictionary, latents, value))
    error = before.double() - codes @ dictionary.w_dec.double()  # what the dictionary does not explain stays
    torch.testing.assert_close(after.double() - set_to @ dictionary.w_dec.double(), error, atol=2e-4, rtol=1e-4)
    read = LatentReader(dictionary, latents, model.device)(before)
    torch.testing.assert_close(read.double(), codes[:, latents], atol=1e-4, rtol=1e-4)
    assert (codes > 0).float().mean() > 0.2


def test_subtracting_is_clamping_at_zero_and_each_latent_has_its_own_value() -> None:
    model, dictionary = tiny_model(1), small_dictionary("topk")
    before = residuals(model)
    everything = list(range(N_LATENTS))
    subtracted = residuals(model, clamp_latents(dictionary, everything))
    assert torch.equal(subtracted, residuals(model, clamp_latents(dictionary, everything, [0.0] * N_LATENTS)))
    rebuilt = dictionary.decode(dictionary.encode(before)) - dictionary.b_dec
    torch.testing.assert_close(subtracted, before - rebuilt, atol=1e-4, rtol=1e-4)
    pair = clamp_latents(dictionary, [5, 2], torch.tensor([1.0, 3.0]))
    expected = before + (torch.tensor([1.0, 3.0]) - activations(dictionary, before)[:, [5, 2]].float()) @ dictionary.w_dec[[5, 2]]
    torch.testing.assert_close(residuals(model, pair), expected, atol=1e-4, rtol=1e-4)


def test_a_condition_is_read_after_the_edits_before_it() -> None:
    model, dictionary = tiny_model(1), small_dictionary("standard")
    latent = 3
    open_ = torch.linspace(-20, 20, 5)[:, None] * (dictionary.w_enc[:, latent] / dictionary.w_enc[:, latent].norm())
    opener = replace(adding("all", names=[POINT]), vectors=open_[-1][None, None])
    closer = replace(opener, vectors=open_[0][None, None])
    conditional = adding("all", 7, 2.0, [POINT]).only_where(dictionary, latent)
    before = residuals(model)
    fires = activations(dictionary, before)[:, latent] > 0
    assert 0 < fires.sum() < len(fires)
    vector = conditional.vectors[0, 0]
    torch.testing.assert_close(residuals(model, conditional), torch.where(fires[:, None], before + vector, before))
    torch.testing.assert_close(residuals(model, opener, conditional), before + open_[-1] + vector)
    torch.testing.assert_close(residuals(model, conditional, opener), torch.where(fires[:, None], before + vector, before) + open_[-1])
    with pytest.warns(EditWarning, match="'added' changed none of .* tokens: latent 3 never exceeded 0 at blocks.1.hook_resid_post"):
        torch.testing.assert_close(residuals(model, closer, conditional), before + open_[0])


def test_a_condition_read_earlier_holds_at_all_later_places() -> None:
    model, dictionary = tiny_model(1), small_dictionary("topk").at(WINDOW[0])
    edit = adding("all", 7, 2.0, [WINDOW[0], resid_post(2)]).only_where(dictionary, 2, above=0.3)
    fires = activations(dictionary, residuals(model, name=WINDOW[0]))[:, 2] > 0.3
    assert 0 < fires.sum() < len(fires)
    with torch.inference_mode():  # a bare pass, of one row
        ids = torch.tensor([model.tokenise(CHATS)[1].ids])
        with by_hand(model, [edit], 0):
            expected = model.network(ids).logits
        with edited(model, edit.at_sinks("edit")):
            torch.testing.assert_close(model.network(ids).logits, expected, atol=1e-4, rtol=1e-4)
    with edited(model, edit):  # again, now in padded batches
        ((indices, batch),) = model.batches(CHATS)
        found = capture_batch(model, batch, edit.hook_points, indices).residuals[WINDOW[0]][batch.mask]
    expected = residuals(model, name=WINDOW[0]) + fires[:, None] * edit.vectors[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_token_is_encoded_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = tiny_model(1), []
    read = LatentReader.__call__
    monkeypatch.setattr(LatentReader, "__call__", lambda self, x: encoded.append(len(x)) or read(self, x))
    with edited_rows(model, [setting("response", names=[POINT]), None, adding(), setting("response", 1, names=[POINT])]):
        generate(model, ask_all(), greedy(3), seed=0)
    assert encoded == [2, 2, 2]


def test_what_others_captured_before_is_not_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASCOPE_CPU_FAST_PATHS", "0")  # padding is compared too
    model = tiny_model(1)
    ((indices, batch),) = model.batches(CHATS)
    plain = capture_batch(model, batch, WINDOW, indices).residuals
    with edited(model, setting("response", names=["blocks.1.hook_resid_pre"])):
        found = capture_batch(model, batch, WINDOW, indices).residuals
    assert torch.equal(found[WINDOW[0]], plain[WINDOW[0]])
    assert not torch.allclose(found[WINDOW[1]], plain[WINDOW[1]], atol=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_edited_residual_keeps_the_dtype(architecture: str) -> None:
    model = tiny_model(1)
    model.network.bfloat16()
    before = residuals(model)
    edit = setting(architecture=architecture, names=[POINT])
    after = residuals(model, edit)
    assert after.dtype == before.dtype == torch.bfloat16
    torch.testing.assert_close(after, closed_form(edit, 0, before), atol=0.0, rtol=0.01)


def never(dictionary_kind: str = "jumprelu") -> Any:
    """A dictionary whose latent 0 never fires, and whose latent 1 is 2 everywhere."""
    dictionary = small_dictionary(dictionary_kind)
    w_enc, b_enc = dictionary.w_enc.clone(), dictionary.b_enc.clone()
    w_enc[:, :2], b_enc[0], b_enc[1] = 0.0, -1.0, 2.0
    return replace(dictionary, w_enc=w_enc, b_enc=b_enc, threshold=torch.zeros(N_LATENTS))


def test_an_edit_that_changes_no_token_warns() -> None:
    model = tiny_model(1)
    chats = ask_all()
    for edit, reason in (
        (clamp_latents(never(), [0], label="one"), "its latents never fired"),
        (clamp_latents(never(), [0, 1], [0.0, 2.0], phase="response", label="one"), "its latents had their values already"),
        (replace(adding("all").only_where(never().at(WINDOW[0]), 0), label="one"), "latent 0 never exceeded 0 at blocks.0.hook_resid_post"),
    ):
        plain = written_ids(model, chats, greedy(3))
        for enter in (lambda edit=edit: edited(model, edit), lambda edit=edit: edited_rows(model, [edit, adding("all"), None, edit])):
            with pytest.warns(EditWarning, match=f"The edit 'one' changed none of [0-9]+ tokens: {reason}") as caught, enter():
                answers = written_ids(model, chats, greedy(3))
            assert len(caught) == 1
            assert caught[0].filename == __file__
            assert [answers[0], answers[3]] == [plain[0], plain[3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with edited(model, clamp_latents(never(), [0, 1])):  # one of them fires
            generate(model, chats, greedy(2), seed=0)


def test_one_rows_edit_that_touches_no_token_is_named() -> None:
    model = tiny_model()
    with (
        pytest.raises(EditError, match="The edit 'lonely' touched no token: none was in its phase 'response' in a row that was read"),
        edited_rows(model, [adding(), adding(), (adding(), replace(adding(seed=5), label="lonely"))]),
    ):
        generate(model, ask_all()[:2], greedy(2), seed=0)
    with edited_rows(model, [adding("prompt")] * 3 + [(adding("prompt"), adding("response"))]):  # one prefill stands for all four
        generate(model, ask_all()[:1] * 4, greedy(2), seed=0)


def test_a_pass_that_ends_below_the_edit_says_so() -> None:
    model = tiny_model()
    with pytest.raises(EditError, match="was not read as far as"):
        residuals(model, adding("all", names=[resid_post(2)]))


def test_an_edit_of_latents_has_no_gradient() -> None:
    model = tiny_model()
    embedded = model.network.get_input_embeddings()(torch.arange(5, 15)[None]).detach().requires_grad_()
    for edit in (setting(), gated()):
        with pytest.raises(EditError, match="No gradient"), edited(model, edit.at_sinks("edit")):
            model.network(inputs_embeds=embedded)
    with edited(model, projecting().at_sinks("edit")):
        model.network(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    with torch.no_grad(), edited(model, setting().at_sinks("edit")):
        model.network(inputs_embeds=embedded)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda d: clamp_latents(d, []), "not none at all"),
        (lambda d: clamp_latents(d, [3, N_LATENTS]), rf"latents 0 to {N_LATENTS - 1}, not \[{N_LATENTS}\]"),
        (lambda d: clamp_latents(d, [-1]), r"not \[-1\]"),
        (lambda d: clamp_latents(d, [3, 3]), "hold one twice"),
        (lambda d: clamp_latents(d, [3], hook_points=[]), "without a hook point"),
        (lambda d: clamp_latents(d, [3], hook_points=[POINT, POINT]), "Name each place once"),
        (lambda d: clamp_latents(d.at(""), [3]), "Name each place once"),
        (lambda d: clamp_latents(d, [3], phase="decode"), "no phase 'decode'"),
        (lambda d: clamp_latents(replace(d, w_dec=torch.zeros_like(d.w_dec)), [3]), "is zero"),
        (lambda d: clamp_latents(replace(d, reads="difference"), [3]), "difference of two models"),
        (lambda d: clamp_latents(d, [3], float("nan")), "finite number"),
        (lambda d: clamp_latents(d, [3, 4], [1.0]), "one each"),
        (lambda d: adding().only_where(d, N_LATENTS), "The dictionary has latents"),
        (lambda d: adding().only_where(d, 3), "blocks.0.hook_resid_post is edited before latent 3 is read at blocks.1.hook_resid_post"),
        (lambda d: adding(names=["blocks.1.hook_resid_pre"]).only_where(d, 3), "is edited before"),
        (lambda d: adding(names=[POINT]).only_where(d, 3, -1.0), "never below 0"),
        (lambda d: adding(names=[POINT]).only_where(d, 3, float("inf")), "finite"),
        (lambda d: adding(names=[POINT]).only_where(d, 3).only_where(d, 4), "has a condition already"),
        (lambda d: adding(names=[POINT]).only_where(d.at("layer 3"), 3), "'layer 3' is no hook point"),
        (lambda d: adding(names=[POINT]).only_where(replace(d, reads="difference"), 3), "difference of two models"),
    ],
)
def test_edits_of_latents_that_mean_nothing_are_refused(make: Callable[[Any], Edit], reason: str) -> None:
    with pytest.raises(EditError, match=reason):
        make(small_dictionary("jumprelu"))


def test_dictionaries_the_model_cannot_read_are_refused_on_entering() -> None:
    model = tiny_model()
    narrow = replace(small_dictionary("standard"), w_enc=torch.ones(16, N_LATENTS), w_dec=torch.ones(N_LATENTS, 16), b_dec=torch.ones(16))
    for edit in (clamp_latents(narrow, [1]), adding(names=[POINT]).only_where(narrow, 1)):
        with pytest.raises(EditError, match=f"width 16, tiny-llama has {D_MODEL}"), edited(model, edit):
            pytest.fail("entered")
    lower = small_dictionary("standard").at("blocks.7.hook_resid_post")
    for edit in (clamp_latents(lower, [1]), adding(names=["blocks.8.hook_resid_post"]).only_where(lower, 1)):
        with pytest.raises(HookPointError, match="Did you mean"), edited(model, edit):
            pytest.fail("entered")
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in model.blocks)


def test_a_crosscoders_latents_are_added_and_projected_out_but_not_read() -> None:
    """One model runs under an edit, and a crosscoder's activations take both; its directions are those of the tuned model."""
    cross = random_crosscoder()
    for edit in (
        lambda: clamp_latents(cross, [3]),
        lambda: clamp_latents(cross, [3], 1.0),
        lambda: add(torch.ones(D_MODEL), {POINT: 1.0}, 1.0).only_where(cross, 3),
    ):
        with pytest.raises(EditError, match=r"reads 2 models at once.*Project their directions out \(or add them\) instead"):
            edit()
    row = torch.nn.functional.normalize(cross.w_dec[3, 1], dim=0)
    edit = project_out(cross.directions([3]), {POINT: torch.zeros(D_MODEL)})
    torch.testing.assert_close(edit.vectors[0, 0].outer(edit.vectors[0, 0]), row.outer(row))
