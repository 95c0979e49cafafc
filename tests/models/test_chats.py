"""Chats as token batches: whose token it is, where the response begins, and that prompts do not depend on answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from interp.core.errors import ModelError
from interp.models.chat_format import ChatFormat
from interp.models.chats import Chat, Message, Role, batches_by_length, pad_left
from tests.helpers.tiny import BOS, CHATML, END, PAD, QUESTIONS, tiny_tokenizer

SYSTEM = "You are a kind and helpful assistant."
QUESTION = "How do I boil an egg?"
ANSWER = "Put it into hot water and wait."
STRANGE = "Ünï¢ode — 鸡蛋 🥚!"


def adding_bos(template: str | None) -> Any:
    """A tokenizer that puts BOS before any text, as Llama's does."""
    tokenizer = tiny_tokenizer(template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def text_of(tokenizer: Any, tokenised: Any, role: Role) -> str:
    return str(tokenizer.decode([i for i, r in zip(tokenised.ids, tokenised.roles, strict=True) if r == role]))


@pytest.mark.parametrize("question", [QUESTION, STRANGE, "two\nlines"])
def test_every_token_has_the_role_of_its_author(question: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenised = ChatFormat(tokenizer).tokenise(Chat.ask(question, ANSWER, SYSTEM))
    assert text_of(tokenizer, tokenised, Role.SYSTEM) == SYSTEM
    assert text_of(tokenizer, tokenised, Role.USER) == question
    assert text_of(tokenizer, tokenised, Role.RESPONSE) == ANSWER + END
    scaffold = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(tokenizer, tokenised, Role.TEMPLATE) == scaffold
    assert tokenizer.decode(tokenised.ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>"
    )


@pytest.mark.parametrize("question", ["user", "assistant", "s", "art", "kind"])
def test_a_question_made_of_the_templates_own_words_is_found_where_it_stands(question: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenised = ChatFormat(tokenizer).tokenise(Chat.ask(question, system=SYSTEM))
    assert text_of(tokenizer, tokenised, Role.USER) == question
    first_user = tokenised.roles.index(Role.USER)
    assert tokenizer.decode(tokenised.ids[:first_user]) == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"


def test_earlier_turns_of_the_assistant_are_no_response() -> None:
    tokenizer = tiny_tokenizer()
    turns = (Message("user", "Why?"), Message("assistant", "The air."), Message("user", QUESTION), Message("assistant", ANSWER))
    tokenised = ChatFormat(tokenizer).tokenise(Chat(turns))
    assert text_of(tokenizer, tokenised, Role.USER) == "Why?" + QUESTION
    assert text_of(tokenizer, tokenised, Role.RESPONSE) == ANSWER + END
    assert "The air." in text_of(tokenizer, tokenised, Role.TEMPLATE)


def test_response_start_is_the_last_prompt_token() -> None:
    tokenizer = tiny_tokenizer()
    chats = [Chat.ask(question, ANSWER) for question in QUESTIONS] + [Chat.ask(QUESTION)]
    tokenised = [ChatFormat(tokenizer).tokenise(chat) for chat in chats]
    batch = pad_left(tokenised, tokenizer.pad_token_id)
    for row, chat in enumerate(chats):
        start = int(batch.response_start[row])
        assert batch.roles[row, start] == Role.TEMPLATE  # the generation prompt's newline
        real = batch.ids[row, : start + 1][batch.mask[row, : start + 1]]
        assert real.tolist() == ChatFormat(tokenizer).tokenise(chat.prompt).ids
        assert (batch.roles[row, start + 1 :] == Role.RESPONSE).all()
        assert not batch.response_tokens[row, : start + 1].any()
    assert int(batch.response_start[-1]) == batch.ids.shape[1] - 1  # a prompt: its own last column


@pytest.mark.parametrize("template", [CHATML, None])
@pytest.mark.parametrize("answer", [ANSWER, "", "ends in lines\n\n", STRANGE])
def test_prompt_tokens_do_not_depend_on_the_answer(template: str | None, answer: str) -> None:
    tokenizer = tiny_tokenizer(template)
    for question in (*QUESTIONS, STRANGE):
        alone = ChatFormat(tokenizer).tokenise(Chat.ask(question, system=SYSTEM))
        answered = ChatFormat(tokenizer).tokenise(Chat.ask(question, answer, SYSTEM))
        assert answered.ids[: alone.n_prompt] == alone.ids
        assert answered.roles[: alone.n_prompt] == alone.roles
        assert answered.n_prompt == alone.n_prompt == len(alone.ids)
        assert set(answered.roles[alone.n_prompt :]) <= {Role.RESPONSE}


def test_a_template_that_rewrites_finished_turns_keeps_the_prompt() -> None:
    """Some templates write the generation prompt otherwise than the finished turn (Qwen3's empty thinking block)."""
    rewriting = CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n'")
    tokenizer = tiny_tokenizer(rewriting)
    alone, answered = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION)), ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER))
    assert answered.ids[: answered.n_prompt] == alone.ids
    assert "</think>" in tokenizer.decode(alone.ids)
    assert text_of(tokenizer, answered, Role.RESPONSE) == ANSWER + END


def test_a_model_without_a_template_gets_the_plain_one_and_one_bos() -> None:
    plain = ChatFormat(tiny_tokenizer(None)).tokenise(Chat.ask(QUESTION, ANSWER, SYSTEM))
    assert tiny_tokenizer(None).decode(plain.ids) == f"{SYSTEM}\n\nUser: {QUESTION}\n\nAssistant: {ANSWER}"

    tokenizer = adding_bos(None)
    with_bos = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER, SYSTEM))
    assert with_bos.ids == [tokenizer.bos_token_id, *plain.ids]
    assert with_bos.roles == [Role.TEMPLATE, *plain.roles]


def test_a_template_that_writes_bos_gets_no_second_one() -> None:
    tokenizer = adding_bos("{{ bos_token }}" + CHATML)
    for chat in (Chat.ask(QUESTION), Chat.ask(QUESTION, ANSWER)):
        tokenised = ChatFormat(tokenizer).tokenise(chat)
        assert tokenised.ids.count(tokenizer.bos_token_id) == 1
        assert tokenised.ids[0] == tokenizer.bos_token_id
    by_template = adding_bos("{{ bos_token }}" + CHATML).apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    assert ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION)).ids == by_template


def test_a_template_that_writes_no_bos_is_used_as_shipped() -> None:
    tokenizer = adding_bos(CHATML)
    assert tokenizer.bos_token_id not in ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER)).ids


def test_max_tokens_cuts_the_response_and_never_the_prompt() -> None:
    tokenizer = tiny_tokenizer()
    whole = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER))
    for limit in range(1, len(whole.ids) + 3):
        cut = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER), max_tokens=limit)
        kept = min(len(whole.ids), max(limit, whole.n_prompt))
        assert cut.ids == whole.ids[:kept]
        assert cut.roles == whole.roles[:kept]
        assert cut.n_prompt == whole.n_prompt


def test_rows_are_padded_on_the_left() -> None:
    tokenizer = tiny_tokenizer()
    tokenised = [ChatFormat(tokenizer).tokenise(Chat.ask(question, ANSWER)) for question in QUESTIONS]
    batch = pad_left(tokenised, tokenizer.pad_token_id)
    assert batch.ids.shape == (len(QUESTIONS), max(len(t.ids) for t in tokenised))
    for row, t in enumerate(tokenised):
        padding = batch.ids.shape[1] - len(t.ids)
        assert batch.ids[row].tolist() == [tokenizer.convert_tokens_to_ids(PAD)] * padding + t.ids
        assert batch.roles[row].tolist() == [Role.PADDING] * padding + t.roles
        assert batch.mask[row].tolist() == [False] * padding + [True] * len(t.ids)
    assert torch.equal(batch.to(torch.device("cpu")).ids, batch.ids)


def test_a_chat_that_the_template_rejects_is_a_model_error() -> None:
    twice = "messages | length > 1 and messages[0]['role'] == messages[1]['role']"
    strict = f"{{% if {twice} %}}{{{{ raise_exception('Roles must alternate') }}}}{{% endif %}}"
    chat = Chat((Message("user", "Why?"), Message("user", QUESTION)))
    with pytest.raises(ModelError, match="Roles must alternate"):
        ChatFormat(tiny_tokenizer(strict + CHATML)).tokenise(chat)


def test_chats_split_into_prompt_and_response() -> None:
    asked = Chat.ask(QUESTION, ANSWER, SYSTEM)
    assert [m.role for m in asked.messages] == ["system", "user", "assistant"]
    assert asked.response == ANSWER
    assert asked.prompt == Chat.ask(QUESTION, system=SYSTEM)
    assert asked.prompt.prompt == asked.prompt
    assert asked.prompt.response is None
    assert Chat.ask(QUESTION, "").response == ""


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=60), rows=st.integers(1, 17))
def test_batches_are_a_permutation_of_full_batches_with_neighbours_in_length(lengths: list[int], rows: int) -> None:
    batches = batches_by_length(lengths, rows)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert all(len(batch) == rows for batch in batches[:-1])
    assert all(1 <= len(batch) <= rows for batch in batches)
    assert [lengths[i] for i in flat] == sorted(lengths)
