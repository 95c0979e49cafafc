"""Chats as token batches that know which token is whose.

Tokens come from the model's own chat template, prompt and response tokenised apart, so that reading an answer meets the same
prompt tokens as generating it. Rows are padded on the left. The *response phase* begins at the last prompt token, the one
whose output is the first response token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from jaxtyping import Bool, Int

if TYPE_CHECKING:
    import torch


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
    thoughts: str = ""
    """What the assistant wrote before the content of its last turn, markers and blanks included, as it was written."""


@dataclass(frozen=True)
class Chat:
    """Turns in order. A last turn by the assistant is the *response*; without one the chat is a prompt."""

    messages: tuple[Message, ...]

    @staticmethod
    def ask(question: str, answer: str | None = None, system: str | None = None, thoughts: str = "") -> Chat:
        """A question, with its answer, the thoughts that were written before it, and a system prompt where given."""
        turns = (("system", system, ""), ("user", question, ""), ("assistant", answer, thoughts))
        return Chat(tuple(Message(role, content, before) for role, content, before in turns if content is not None))

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
