"""Live residuals are those of single documents read alone, both models on the same tokens, every document in one block."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from interp.core.errors import ActivationError, HookPointError, ModelError, TrainingError
from interp.models.adapter_pair import open_pair
from interp.models.chats import Chat, Role
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from sae_training.feed import Feed, Position
from sae_training.live import LiveSource, pack
from tests.helpers.tiny import D_MODEL, N_LAYERS, QUESTIONS, SENTENCES, tiny_folder, tiny_model, tiny_network

NAMES = ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"]
ANSWERS = ("Wait.", "Put it into hot water.", "Once there was a boat on a river.", "Speak it every day with patient people.")
CHATS = [Chat.ask(q, a, system) for system in (None, "You are kind.") for q in QUESTIONS for a in ANSWERS]
TEXTS = [" ".join(SENTENCES[: 1 + i % 5]) for i in range(9)]


def hidden(model: LanguageModel, ids: list[int], name: str) -> torch.Tensor:
    """Hugging Face's hidden states of one sequence alone."""
    with torch.inference_mode():
        states = model.network(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return states[int(name.split(".")[1]) + name.endswith("post")][0]


def sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows in an order of their own, so that two sets can be compared whatever their order."""
    flat = rows.reshape(len(rows), -1)
    return flat[flat[:, 0].argsort()]


def whole(source: LiveSource) -> dict[str, torch.Tensor]:
    blocks = [source.block(i) for i in range(source.n_blocks)]
    return {name: torch.cat([block[name] for block in blocks]) for name in source.hook_points}


def wanted(tokenised: Any, tokens: str, skip_first: int) -> slice:
    start = {"content": tokenised.roles.index(Role.USER), "response": tokenised.n_prompt - 1, "all": 0}[tokens]
    return slice(max(start, skip_first), len(tokenised.ids) - (tokens == "response"))


@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize(("tokens", "skip_first"), [("content", 0), ("content", 12), ("response", 0), ("all", 0), ("all", 4)])
def test_chats_give_the_residuals_of_each_chat_alone(n_models: int, tokens: str, skip_first: int) -> None:
    models = [tiny_model(seed) for seed in range(n_models)]
    source = LiveSource(models, CHATS, NAMES, 5, 200, skip_first, tokens, rows=3)
    assert (source.hook_points, source.n_models, source.d_in) == (tuple(NAMES), n_models, D_MODEL)
    assert (source.n_blocks, source.n_rows) == (7, None)
    found = whole(source)
    for name in NAMES:
        expected = []
        for tokenised in models[0].tokenise(CHATS):
            part = wanted(tokenised, tokens, skip_first)
            expected.append(torch.stack([hidden(model, tokenised.ids, name)[part] for model in models], dim=1))
        assert found[name].shape[1:] == (n_models, D_MODEL)
        torch.testing.assert_close(sorted_rows(found[name]), sorted_rows(torch.cat(expected)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("skip_first", [0, 3])
@pytest.mark.parametrize("bos", [False, True])
def test_texts_are_packed_into_contexts_without_padding(skip_first: int, bos: bool) -> None:
    models = [tiny_model(0), tiny_model(1)]
    for model in models if bos else ():
        model.tokenizer.add_bos_token = True
        call = model.tokenizer.__class__.__call__

        class Adding(model.tokenizer.__class__):  # type: ignore[name-defined, misc]
            def __call__(self, text: Any, add_special_tokens: bool = True, call: Any = call, **kwargs: Any) -> Any:
                result = call(self, text, add_special_tokens=False, **kwargs)
                if add_special_tokens:
                    result["input_ids"] = [self.bos_token_id, *result["input_ids"]]
                return result

        model.tokenizer.__class__ = Adding
    source = LiveSource(models, TEXTS, NAMES, block_sequences=4, max_tokens=16, skip_first=skip_first, rows=3)
    found, expected = whole(source), {name: [] for name in NAMES}  # type: ignore[var-annotated]
    plain = tiny_model().tokenizer
    for first in range(0, len(TEXTS), 4):  # each block by itself
        stream = []
        for document in source.order[first : first + 4]:
            stream += [*plain(TEXTS[document])["input_ids"], plain.eos_token_id]
        size = 16 - bos
        contexts = [[plain.bos_token_id] * bos + stream[i : i + size] for i in range(0, len(stream), size)]
        for name in NAMES:
            expected[name] += [torch.stack([hidden(model, ids, name)[skip_first:] for model in models], 1) for ids in contexts]
    for name in NAMES:
        torch.testing.assert_close(sorted_rows(found[name]), sorted_rows(torch.cat(expected[name])), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.sampled_from(["", *SENTENCES]), max_size=6), max_tokens=st.integers(2, 40))
def test_packing_loses_and_adds_nothing(texts: list[str], max_tokens: int) -> None:
    model = tiny_model()
    contexts = pack(texts, model, max_tokens)
    assert all(len(context) == max_tokens for context in contexts[:-1])
    assert all(0 < len(context) <= max_tokens for context in contexts)
    stream = list(itertools.chain(*contexts))
    assert model.tokenizer.decode(stream) == "".join(text + model.tokenizer.eos_token for text in texts if text)


def test_a_block_is_a_pure_function_of_its_number_and_every_document_is_in_one() -> None:
    model = tiny_model()
    source, again = (LiveSource([model], CHATS, NAMES, 6, seed=4) for _ in range(2))
    assert sorted(source.order) == list(range(len(CHATS)))
    later = source.block(3)
    source.block(0)
    for block in (source.block(3), again.block(3)):
        assert all(torch.equal(block[name], later[name]) for name in NAMES)
    assert LiveSource([model], CHATS, NAMES, 6, seed=5).order != source.order != sorted(source.order)


def test_fingerprints_tell_texts_models_and_settings_apart() -> None:
    first = LiveSource([tiny_model()], CHATS, NAMES).fingerprint
    assert LiveSource([tiny_model()], list(CHATS), NAMES).fingerprint == first
    others = [
        LiveSource([tiny_model(1)], CHATS, NAMES),
        LiveSource([tiny_model(), tiny_model(1)], CHATS, NAMES),
        LiveSource([tiny_model(1), tiny_model()], CHATS, NAMES),
        LiveSource([tiny_model()], CHATS[1:], NAMES),
        LiveSource([tiny_model()], TEXTS, NAMES),
        LiveSource([tiny_model()], CHATS, NAMES[:1]),
        *(
            LiveSource([tiny_model()], CHATS, NAMES, **{name: 7})
            for name in ("block_sequences", "max_tokens", "skip_first", "seed", "rows")
        ),
        LiveSource([tiny_model()], CHATS, NAMES, tokens="all"),
        LiveSource([tiny_model()], CHATS, NAMES, dtype="bfloat16"),
    ]
    assert len({first, *(source.fingerprint for source in others)}) == 1 + len(others)


def test_live_blocks_on_a_cpu_are_read_between_batches() -> None:
    source = LiveSource([tiny_model()], CHATS, NAMES)
    assert not source.background
    assert not Feed(source, 4, 0, prefetch=True).prefetch


def test_bfloat16_is_the_rounded_float32() -> None:
    model = tiny_model()
    exact, rounded = (LiveSource([model], CHATS, NAMES, 6, dtype=dtype).block(0) for dtype in ("float32", "bfloat16"))
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in NAMES)
    assert rounded[NAMES[0]].dtype == torch.bfloat16


def test_nothing_above_the_last_hook_point_is_computed() -> None:
    model, ran = tiny_model(), []
    for layer in range(N_LAYERS):
        model.blocks[layer].mlp.register_forward_pre_hook(lambda _module, _args, layer=layer: ran.append(layer))
    LiveSource([model], CHATS, NAMES, 4, rows=4).block(0)
    assert ran == [0, 1]  # one pass for both hook points


def test_the_template_is_the_tuned_models_where_only_that_one_has_one() -> None:
    base, tuned = tiny_model(0), tiny_model(1)
    base.tokenizer.chat_template = None
    source, alone = LiveSource([base, tuned], CHATS, NAMES, 4), LiveSource([tuned], CHATS, NAMES, 4)
    assert torch.equal(source.block(0)[NAMES[0]][:, 1], alone.block(0)[NAMES[0]][:, 0])
    tuned.tokenizer.chat_template = None
    base.tokenizer.chat_template = tiny_model().tokenizer.chat_template
    source = LiveSource([base, tuned], CHATS, NAMES, 4)
    assert torch.equal(source.block(0)[NAMES[0]], LiveSource([base, tiny_model(1)], CHATS, NAMES, 4).block(0)[NAMES[0]])


def test_an_adapter_on_shared_weights_reads_as_two_models(tmp_path: Path) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    network = get_peft_model(tiny_network("llama"), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    network.save_pretrained(tmp_path / "adapter")
    tuned = str(tmp_path / "adapter")
    pair = open_pair(base, tuned, "cpu")
    assert pair[0].network is pair[1].network
    apart = [open_model(base, None, "cpu"), open_model(tuned, base, "cpu")]
    shared, separate = (LiveSource(models, CHATS, NAMES, 9) for models in (pair, apart))
    for index in range(shared.n_blocks):
        ours, theirs = shared.block(index), separate.block(index)
        for name in NAMES:
            assert torch.equal(ours[name][:, 0], theirs[name][:, 0])
            torch.testing.assert_close(ours[name][:, 1], theirs[name][:, 1], atol=1e-4, rtol=1e-4)
    assert (ours[NAMES[0]][:, 0] - ours[NAMES[0]][:, 1]).abs().max() > 0.01


@pytest.mark.parametrize("documents", [CHATS, TEXTS])
def test_a_feed_of_live_blocks_resumes_exactly(documents: Any) -> None:
    models = [tiny_model(0), tiny_model(1)]

    def batches(position: Position, count: int) -> list[Any]:
        found = Feed(LiveSource(models, documents, NAMES, 3, 32), 24, 0, group=2).batches(position)
        return list(itertools.islice(found, count))

    straight = batches(Position(), 9)
    resumed = batches(straight[3][1], 5)
    for (batch, position), (again, position_again) in zip(straight[4:], resumed, strict=True):
        assert position == position_again
        assert all(torch.equal(batch[name], again[name]) for name in NAMES)


def test_short_documents_may_give_no_rows() -> None:
    model = tiny_model()
    source = LiveSource([model], ["", "Why?", ""], NAMES, 1, max_tokens=16, skip_first=10)
    assert [len(source.block(i)[NAMES[0]]) for i in range(3)] == [0, 0, 0]
    assert source.block(0)[NAMES[0]].shape == (0, 1, D_MODEL)
    with pytest.raises(TrainingError, match="0 rows of residuals cannot fill a batch of 4"):
        next(Feed(source, 4, 0).batches())


def test_residuals_that_are_not_finite_raise() -> None:
    model = tiny_model()
    model.network.model.embed_tokens.weight.data[model.tokenizer("Why")["input_ids"][0], 0] = float("nan")
    with pytest.raises(ActivationError, match="that are not finite"):
        next(Feed(LiveSource([model], ["Why?"] * 9, NAMES), 4, 0).batches())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": 0}, "one model or two, not 0"),
        ({"models": 3}, "one model or two, not 3"),
        ({"documents": []}, "0 documents give no residuals"),
        ({"documents": [*CHATS, "text"]}, "are of two kinds"),
        ({"documents": ["text", *CHATS]}, "are of two kinds"),
        ({"documents": TEXTS, "tokens": "response"}, "'response', which plain text does not have. Use content or all"),
        ({"tokens": "answers"}, "'answers', which chats does not have. Use content or response or all"),
        ({"dtype": "int8"}, "'int8' is not a dtype"),
        ({"block_sequences": 0}, "block_sequences is 0. Give at least 1"),
        ({"max_tokens": 1}, "max_tokens is 1. Give at least 2"),
        ({"rows": 0}, "rows is 0"),
        ({"skip_first": 128}, "skip_first is 128, of sequences of 128 tokens. Give 0 to 127"),
        ({"skip_first": -1}, "skip_first is -1"),
        ({"hook_points": []}, "Name at least one"),
        ({"hook_points": [NAMES[0]] * 2}, "each once"),
    ],
)
def test_settings_that_give_no_rows_are_refused(change: dict[str, Any], message: str) -> None:
    settings = {"models": 1, "documents": CHATS, "hook_points": NAMES, **change}
    settings["models"] = [tiny_model(seed) for seed in range(settings["models"])]
    with pytest.raises(TrainingError, match=message):
        LiveSource(**settings)


def test_models_and_hook_points_must_fit() -> None:
    with pytest.raises(ModelError, match="do not match: residual width 32 and 64"):
        LiveSource([tiny_model(0), tiny_model(1, d_model=64)], CHATS, NAMES)
    with pytest.raises(HookPointError, match="Did you mean"):
        LiveSource([tiny_model(0)], CHATS, ["blocks.7.hook_resid_post"])
    model = tiny_model()
    model.tokenizer.eos_token = None
    with pytest.raises(TrainingError, match="no end-of-text token to join texts with"):
        LiveSource([model], TEXTS, NAMES)
