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
        turns = (("system", system), ("user", question), ("assistant", answer))
        return Chat(tuple(Message(role, content) for role, content in turns if content is not None))

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

    def response_window(self) -> tuple[int, Int[torch.Tensor, "batch window"], Bool[torch.Tensor, "batch window"]]:
        """How many last columns of logits tell of the responses; the token after each but the last, and whether it is a response's."""
        width = int(self.ids.shape[1] - self.response_start.min())
        first = self.ids.shape[1] - width + 1  # not a negative index: without a response there is nothing to take
        return width, self.ids[:, first:], self.response_tokens[:, first:]

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(self.ids.to(device), self.roles.to(device), self.response_start.to(device))


@dataclass(frozen=True)
class TokenisedChat:
    """One chat as token ids with roles, not padded."""

    ids: list[int]
    roles: list[int]
    n_prompt: int


def tokenise(tokenizer: PreTrainedTokenizerBase, chat: Chat | str, max_tokens: int | None = None) -> TokenisedChat:
    """Token ids and roles of one chat; the template is the model's, `PLAIN_TEMPLATE` where it has none.

    Of a plain text all is response but the first token, which nothing predicts. `max_tokens` cuts the response, never the prompt.
    Raises `ModelError` where the template rejects the chat.
    """
    if isinstance(chat, str):
        ids = list(tokenizer(chat)["input_ids"])[:max_tokens]
        return TokenisedChat(ids, [int(Role.TEMPLATE), *[int(Role.RESPONSE)] * (len(ids) - 1)][: len(ids)], 1)
    template, bos = None, ""
    if not tokenizer.chat_template:  # a shipped template writes BOS itself
        template = PLAIN_TEMPLATE
        adds_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        bos = str(tokenizer.bos_token) if adds_bos else ""

    def text_of(turns: Sequence[tuple[str, str]], open_end: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=open_end)
        except Exception as error:  # jinja raises many kinds, and templates raise their own
            raise ModelError(f"The model's chat template rejects this chat: {error}. Check its roles and their order.") from error
        return bos + str(text)

    turns = [(message.role, message.content) for message in chat.prompt.messages]
    prompt_text = text_of(turns, open_end=True)
    marked_text = text_of([(role, f"\ue000{i}\ue000") for i, (role, _content) in enumerate(turns)], open_end=True)
    prompt = tokenizer(prompt_text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(prompt["input_ids"])
    roles = _prompt_roles(prompt_text, marked_text, prompt["offset_mapping"], chat.prompt.messages)
    n_prompt = len(ids)
    if chat.response is not None:
        full_text = text_of([*turns, ("assistant", chat.response)], open_end=False)
        if full_text.startswith(prompt_text):
            response_text = full_text[len(prompt_text) :]
        else:  # templates that write the generation prompt otherwise than the finished turn
            response_text = chat.response + (str(tokenizer.eos_token) if tokenizer.eos_token else "")
        ids += tokenizer(response_text.rstrip("\n"), add_special_tokens=False)["input_ids"]
        roles += [int(Role.RESPONSE)] * (len(ids) - n_prompt)
    kept = len(ids) if max_tokens is None else max(max_tokens, n_prompt)
    return TokenisedChat(ids[:kept], roles[:kept], n_prompt)


def _prompt_roles(text: str, marked: str, offsets: Sequence[tuple[int, int]], messages: Sequence[Message]) -> list[int]:
    """Role of each prompt token: the turn in whose content it lies, else TEMPLATE.

    `marked` is the prompt with a mark in place of every content: a content may occur in the template's own words too.
    """
    scaffold = re.split("\ue000\\d+\ue000", marked)
    if len(scaffold) != len(messages) + 1:  # a template that drops or repeats a turn
        scaffold = [""] * (len(messages) + 1)
    of_character, cursor = [int(Role.TEMPLATE)] * (len(text) + 1), 0
    for before, message in zip(scaffold, messages, strict=False):
        content = message.content.strip()  # some templates trim
        led = text.find(before, cursor)
        start = text.find(content, led + len(before) if led >= 0 else cursor)
        if start >= 0 and content:
            cursor = start + len(content)
            role = {"system": Role.SYSTEM, "user": Role.USER}.get(message.role, Role.TEMPLATE)
            of_character[start:cursor] = [int(role)] * len(content)
    return [of_character[(begin + end) // 2] for begin, end in offsets]


def pad_left(chats: Sequence[TokenisedChat], pad_id: int) -> TokenBatch:
    """Rows padded on the left to the longest."""
    import torch

    width = max(len(chat.ids) for chat in chats)
    padding = [width - len(chat.ids) for chat in chats]
    ids = torch.tensor([[pad_id] * n + chat.ids for n, chat in zip(padding, chats, strict=True)], dtype=torch.long)
    roles = torch.tensor([[int(Role.PADDING)] * n + chat.roles for n, chat in zip(padding, chats, strict=True)], dtype=torch.long)
    return TokenBatch(ids, roles, torch.tensor([n + chat.n_prompt - 1 for n, chat in zip(padding, chats, strict=True)]))


def batches_by_length(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices in batches of at most `rows`, neighbours in length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + rows] for i in range(0, len(order), rows)]
