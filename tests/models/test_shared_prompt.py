"""Rows that share their prompt's keys and values answer as rows that have their own, and only where that pays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import interp.models.cpu.shared_prompt
from interp.core.errors import ModelError
from interp.models.chats import Chat
from interp.models.cpu.shared_prompt import Groups, SharedPromptCache, can_share
from interp.models.generation import draw, generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from tests.helpers.tiny import FAMILIES, QUESTIONS, ask_all, greedy, tiny_model, written_ids

SAMPLED = settings(deadline=None, derandomize=True, max_examples=60)
SHARING = [family for family in FAMILIES if family != "gemma3"]  # its window slides
ORDER = [0, 2, 1, 0, 3, 2, 0, 1, 2, 3]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[SharedPromptCache]:
    """The caches that were made."""
    made: list[SharedPromptCache] = []

    class Watched(SharedPromptCache):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(interp.models.cpu.shared_prompt, "SharedPromptCache", Watched)
    return made


def logits_seen(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, chats: list[Chat], sampling: SamplingConfig) -> list[torch.Tensor]:
    """Logits of every step of decoding."""
    seen: list[torch.Tensor] = []

    def watch(logits: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(logits.clone())
        return draw(logits, *args)

    monkeypatch.setattr("interp.models.generation.draw", watch)
    generate(model, chats, sampling, seed=2)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_rows_with_prompts_of_their_own(
    family: str, monkeypatch: pytest.MonkeyPatch, shared: list[SharedPromptCache]
) -> None:
    monkeypatch.setattr("interp.models.cpu.shared_prompt.FIRST_ROOM", 2)  # the responses outgrow it, thrice
    model = tiny_model(6, family)
    model.network.generation_config.eos_token_id = list(range(3, 400, 9))  # rows end at different steps
    chats, sampling = [Chat.ask(QUESTIONS[i]) for i in ORDER], SamplingConfig(max_new_tokens=12, min_p=0.0)
    together = logits_seen(model, monkeypatch, chats, sampling)
    assert len(shared) == (family in SHARING)
    monkeypatch.setattr("interp.models.cpu.shared_prompt.can_share", lambda *_: False)
    apart = logits_seen(model, monkeypatch, chats, sampling)
    assert len({len(rows) for rows in together}) > 4
    assert len(together) == len(apart)
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    assert model.network.config._attn_implementation == "sdpa"


def test_padded_and_equal_prompts_answer_as_alone(shared: list[SharedPromptCache]) -> None:
    for family in SHARING:
        model = tiny_model(5, family)
        alone = [written_ids(model, [chat], greedy())[0] for chat in ask_all()]
        assert not shared  # one row has nobody to share with
        assert written_ids(model, [ask_all()[i] for i in ORDER], greedy()) == [alone[i] for i in ORDER]
        assert written_ids(model, ask_all()[1:2] * 5, greedy()) == alone[1:2] * 5  # no padding, so no mask
        assert [cache.groups.size for cache in shared] == [3, 5]
        shared.clear()


@SAMPLED
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_rows_come_back_from_their_groups(prompts: list[int], data: st.DataObject) -> None:
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    groups, prompt_of = Groups([numbers[prompt] for prompt in prompts]), torch.tensor([numbers[prompt] for prompt in prompts])
    for _ in range(2):
        rows = torch.randn(len(prompt_of), 2, 3, 5)
        gathered = groups.gather(rows)
        assert gathered.shape == (len(numbers), 2, groups.size * 3, 5)
        assert torch.equal(groups.scatter(gathered), rows)
        own = torch.randn(len(numbers), 2, 5, 7)
        torch.testing.assert_close(groups.scatter(gathered @ own), rows @ own[prompt_of], atol=1e-5, rtol=1e-5)
        kept = sorted(data.draw(st.sets(st.integers(0, len(prompt_of) - 1), min_size=1)))
        groups.select(kept)
        prompt_of = prompt_of[kept]


def test_sharing_is_for_many_rows_of_few_prompts_on_the_cpu() -> None:
    def cache(model: LanguageModel, rows: int) -> DynamicCache:
        filled = DynamicCache(config=model.network.config)
        with torch.inference_mode():
            model.network(input_ids=torch.ones(rows, 3, dtype=torch.long), past_key_values=filled, use_cache=True)
        return filled

    model = tiny_model()
    three = cache(model, 3)
    for prompt_of, expected in (
        ([0, 0, 1, 1, 2, 2], True),
        ([0, 1, 2, 0, 1, 2], True),
        ([0, 0, 1, 1, 2], False),  # less than two rows a prompt
        ([0] * 8 + [1, 2], False),  # padded to 24 for 10 rows
    ):
        assert can_share(model.network, three, prompt_of) == expected
    assert not can_share(model.network, DynamicCache(config=model.network.config), [0, 0])  # nothing was read yet
    gemma = tiny_model(0, "gemma3")
    assert not can_share(gemma.network, cache(gemma, 1), [0, 0])
    eager = tiny_model()
    eager.network.set_attn_implementation("eager")
    assert not can_share(eager.network, three, [0, 0, 1, 1, 2, 2])
    half = tiny_model()
    half.network.to(torch.bfloat16)
    assert not can_share(half.network, three, [0, 0, 1, 1, 2, 2])


def test_keys_and_values_may_differ_in_width() -> None:
    prompts = DynamicCache()
    prompts.update(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6), 0)
    layer: Any = SharedPromptCache(prompts, [0, 1, 0, 1]).layers[0]
    new = [(torch.randn(4, 3, 1, 4), torch.randn(4, 3, 1, 6)) for _ in range(3)]
    for one in new:
        keys, values = layer.update(*one)
    assert torch.equal(keys, torch.cat([key for key, _ in new], dim=2))
    assert torch.equal(values, torch.cat([value for _, value in new], dim=2))
    assert layer.get_seq_length() == 5 + 3


@pytest.mark.parametrize("places", [[0] * 4, ORDER])
def test_a_layer_that_attends_in_its_own_way_is_refused(places: list[int]) -> None:
    model = tiny_model()
    attention = model.blocks[1].self_attn
    attention.config = copy.deepcopy(attention.config)  # it does not see that the network's changed
    with pytest.raises(ModelError, match="attention of its own"):
        generate(model, [ask_all()[i] for i in places], greedy(1), seed=0)
    assert model.network.config._attn_implementation == "sdpa"


def test_an_error_inside_leaves_the_network_as_it_was() -> None:
    model = tiny_model()

    def fail(_module: Any, args: Any) -> None:
        if args[0].shape[1] == 1:
            raise MemoryError

    handle = model.blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        generate(model, ask_all()[:1] * 4, greedy(), seed=0)
    handle.remove()
    assert model.network.config._attn_implementation == "sdpa"
    assert len(generate(model, ask_all()[:1] * 4, greedy(), seed=0)) == 4
