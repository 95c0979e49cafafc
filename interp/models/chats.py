"""Chats as token batches that know which token is whose.

Tokens come from the model's own chat template, prompt and response tokenised apart, so that reading an answer meets the same
prompt tokens as generating it. Rows are padded on the left. The *response phase* begins at the last prompt token, the one
whose output is the first response token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from jaxtyping import Bool, Int

from interp.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Used for models that ship no chat template: `User: …`, blank line, `Assistant: …`, blank line."""


class Role(IntEnum):
    """Whose token it is."""

    PADDING = 0
    TEMPLATE = 1
    SYSTEM = 2
    USER = 3
    RESPONSE = 4


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Chat:
    """Turns in order. A last turn by the assistant is the *response*; without one the chat is a prompt."""

    messages: tuple[Message, ...]

    @staticmethod
    def ask(question: str, answer: str | None = None, system: str | None = None) -> Chat:
        """A question, with its answer and a system prompt where given."""
        turns = [Message("system", system)] if system is not None else []
        turns.append(Message("user", question))
        if answer is not None:
            turns.append(Message("assistant", answer))
        return Chat(tuple(turns))

    @property
    def response(self) -> str | None:
        """The assistant's last turn, or None for a prompt."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else None

    @property
    def prompt(self) -> Chat:
        """The chat without its response."""
        return Chat(self.messages[:-1]) if self.response is not None else self


@dataclass(frozen=True)
class TokenBatch:
    """Left-padded tokens of some chats."""

    ids: Int[torch.Tensor, "batch position"]
    roles: Int[torch.Tensor, "batch position"]
    """`Role` of every token."""
    response_start: Int[torch.Tensor, " batch"]
    """Column at which the response *phase* begins: that of the last prompt token."""

    @property
    def mask(self) -> Bool[torch.Tensor, "batch position"]:
        """True where there is a token."""
        return self.roles != Role.PADDING

    @property
    def response_tokens(self) -> Bool[torch.Tensor, "batch position"]:
        """True at tokens the assistant wrote."""
        return self.roles == Role.RESPONSE

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(self.ids.to(device), self.roles.to(device), self.response_start.to(device))


@dataclass(frozen=True)
class TokenisedChat:
    """One chat as token ids with roles, not padded."""

    ids: list[int]
    roles: list[int]
    n_prompt: int


def tokenise(tokenizer: PreTrainedTokenizerBase, chat: Chat, max_tokens: int | None = None) -> TokenisedChat:
    """Token ids and roles of one chat; the template is the model's, `PLAIN_TEMPLATE` where it has none.

    `max_tokens` cuts the response, never the prompt. Raises `ModelError` where the template rejects the chat.
    """
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    bos = _plain_bos(tokenizer) if template else ""  # a shipped template writes its own
    prompt_turns = [{"role": m.role, "content": m.content} for m in chat.prompt.messages]
    marked_turns = [{"role": m.role, "content": f"\ue000{i}\ue000"} for i, m in enumerate(chat.prompt.messages)]
    try:
        prompt_text, marked_text = (
            bos + str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True))
            for turns in (prompt_turns, marked_turns)
        )
    except Exception as error:  # jinja raises many kinds, and templates raise their own
        raise ModelError(f"The model's chat template rejects this chat: {error}. Check its roles and their order.") from error
    prompt = tokenizer(prompt_text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(prompt["input_ids"])
    roles = _prompt_roles(prompt_text, marked_text, prompt["offset_mapping"], chat.prompt.messages)
    n_prompt = len(ids)
    if chat.response is not None:
        full_turns = [*prompt_turns, {"role": "assistant", "content": chat.response}]
        full_text = bos + str(tokenizer.apply_chat_template(full_turns, chat_template=template, tokenize=False))
        if full_text.startswith(prompt_text):
            response_text = full_text[len(prompt_text) :]
        else:  # templates that write the generation prompt otherwise than the finished turn
            response_text = chat.response + (str(tokenizer.eos_token) if tokenizer.eos_token else "")
        response_ids = tokenizer(response_text.rstrip("\n"), add_special_tokens=False)["input_ids"]
        ids += response_ids
        roles += [int(Role.RESPONSE)] * len(response_ids)
    if max_tokens is not None and len(ids) > max_tokens:
        keep = max(max_tokens, n_prompt)
        ids, roles = ids[:keep], roles[:keep]
    return TokenisedChat(ids, roles, n_prompt)


def tokenise_text(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int | None = None) -> TokenisedChat:
    """Token ids of a plain text, all of it response but the first token, which nothing predicts."""
    ids = list(tokenizer(text)["input_ids"])[:max_tokens]
    return TokenisedChat(ids, [int(Role.TEMPLATE), *[int(Role.RESPONSE)] * (len(ids) - 1)][: len(ids)], 1)


def _plain_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The BOS token's text where the tokenizer would add one by itself, else nothing."""
    adds = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if adds else ""


def _prompt_roles(text: str, marked: str, offsets: Sequence[tuple[int, int]], messages: Sequence[Message]) -> list[int]:
    """Role of each prompt token: the turn in whose content it lies, else TEMPLATE.

    `marked` is the prompt with a mark in place of every content: a content may occur in the template's own words too.
    """
    scaffold = re.split("\ue000\\d+\ue000", marked)
    if len(scaffold) != len(messages) + 1:  # a template that drops or repeats a turn
        scaffold = [""] * (len(messages) + 1)
    spans: list[tuple[int, int, Role]] = []
    cursor = 0
    for before, message in zip(scaffold, messages, strict=False):
        content = message.content.strip()  # some templates trim
        led = text.find(before, cursor)
        start = text.find(content, led + len(before) if led >= 0 else cursor)
        if start < 0 or not content:
            continue
        cursor = start + len(content)
        role = {"system": Role.SYSTEM, "user": Role.USER}.get(message.role, Role.TEMPLATE)
        spans.append((start, cursor, role))
    roles = []
    for begin, end in offsets:
        middle = (begin + end) / 2
        roles.append(int(next((role for first, last, role in spans if first <= middle < last), Role.TEMPLATE)))
    return roles


def pad_left(chats: Sequence[TokenisedChat], pad_id: int) -> TokenBatch:
    """Rows padded on the left to the longest."""
    import torch

    width = max(len(chat.ids) for chat in chats)
    ids = torch.full((len(chats), width), pad_id, dtype=torch.long)
    roles = torch.full((len(chats), width), int(Role.PADDING), dtype=torch.long)
    for row, chat in enumerate(chats):
        ids[row, width - len(chat.ids) :] = torch.tensor(chat.ids, dtype=torch.long)
        roles[row, width - len(chat.ids) :] = torch.tensor(chat.roles, dtype=torch.long)
    starts = torch.tensor([width - len(chat.ids) + chat.n_prompt - 1 for chat in chats])
    return TokenBatch(ids, roles, starts)


def batches_by_length(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices in batches of at most `rows`, neighbours in length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + rows] for i in range(0, len(order), rows)]
