"""How a model writes chats: the text around each turn, what ends an answer, and what in it is thought rather than answer.

All of it is read from the chat template, by rendering short chats with marks in place of the turns.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from interp.core.errors import ChatFormatWarning, ModelError
from interp.models.chats import Chat, Message, Role, TokenisedChat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Used for models that ship no chat template: `User: …`, blank line, `Assistant: …`, blank line."""
THOUGHTS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, SmolLM3, Nemotron
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
"""What opens a thought, and what closes it."""
UNFINISHED = "the thought is not finished: allow more new tokens"
SYSTEM, USER, ASSISTANT, NEXT = (f"\ue000{place}\ue000" for place in range(4))
"""Marks in place of turns; no template writes private-use characters of its own."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote, taken apart."""

    text: str
    """The answer alone, without blanks around it; empty where the thought has no end."""
    thoughts: str = ""
    """All that was written before it, markers and blanks included, so that thoughts and text together are what was written."""
    reason: str = ""
    """Why there is no answer."""


class _Around(NamedTuple):
    """Text around an assistant's turn that follows a user's."""

    before: str
    after: str


class ChatFormat:
    """The chat template of a tokenizer, `PLAIN_TEMPLATE` where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, thinking: bool = False) -> None:
        """`thinking`: whether a template with a switch for it (`enable_thinking` or `thinking`) lets the model think first."""
        self.tokenizer, self.thinking, self.template = tokenizer, thinking, tokenizer.chat_template
        self._said: set[str] = set()

    def render(self, turns: Sequence[tuple[str, str]], open_end: bool) -> str:
        """The text of `turns` (role, content), up to where an answer begins if `open_end`; raises `ModelError` where it is rejected.

        A system prompt that the template does not take begins the first user turn.
        """
        if turns and turns[0][0] == "system" and self._folds_system:
            turns = _folded(turns)
        text = self._applied(turns, open_end)
        return text + self._missing_header if open_end else text

    def _applied(self, turns: Sequence[tuple[str, str]], open_end: bool) -> str:
        template, bos = None, ""
        if not self.template:  # a shipped template writes BOS itself
            template, bos_id = PLAIN_TEMPLATE, self.tokenizer.bos_token_id
            bos = str(self.tokenizer.bos_token) if bos_id is not None and self.tokenizer("a")["input_ids"][:1] == [bos_id] else ""
        switches = {"enable_thinking": self.thinking, "thinking": self.thinking}
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=open_end, **switches
            )
        except Exception as error:  # jinja raises many kinds, and templates raise their own
            raise ModelError(f"The model's chat template rejects this chat: {error}. Check its roles and their order.") from error
        return bos + str(text)

    def _probed(self, turns: Sequence[tuple[str, str]], open_end: bool = False) -> str:
        """As `_applied`, nothing where the template rejects the turns."""
        try:
            return self._applied(turns, open_end)
        except ModelError:
            return ""

    @cached_property
    def _question(self) -> str:
        """A user's turn with the generation prompt."""
        return self._probed([("user", USER)], open_end=True)

    @property
    def example(self) -> str:
        """The prompt of a question that is a mark."""
        return self._question + self._missing_header

    @cached_property
    def tokens(self) -> set[int]:
        """Ids of the tokens that the format itself writes."""
        parts = [*self.example.split(USER), self._end]
        return {token for part in parts for token in self.tokenizer(part, add_special_tokens=False)["input_ids"]}

    @cached_property
    def _around(self) -> _Around:
        text = self._probed([("user", USER), ("assistant", ASSISTANT)])
        before, mark, after = text.partition(ASSISTANT)
        eos = str(self.tokenizer.eos_token or "")
        return _Around(before, after) if mark else _Around("", eos)

    @cached_property
    def _folds_system(self) -> bool:
        """Whether the template rejects a system prompt, or drops it."""
        return bool(self._question) and SYSTEM not in self._probed([("system", SYSTEM), ("user", USER)], open_end=True)

    @cached_property
    def _missing_header(self) -> str:
        """What stands before an assistant's turn where the template has no generation prompt; nothing where it has one."""
        prompt, before = self._question, self._around.before
        if not prompt or prompt != self._probed([("user", USER)]) or not before.startswith(prompt):
            return ""
        header = before[len(prompt) :]
        return header if header.strip() else ""  # [/INST] is followed by the answer, after a blank at most

    @cached_property
    def _lead(self) -> str:
        """Blanks between the prompt and an answer."""
        prompt, before = self.example, self._around.before
        lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
        return "" if lead.strip() else lead

    @cached_property
    def _end_token(self) -> str:
        """The added token by which the template ends an assistant's turn; nothing where it ends otherwise."""
        after = self._around.after.lstrip()
        return max(
            (str(token) for token in self.tokenizer.added_tokens_decoder.values() if after.startswith(str(token))), key=len, default=""
        )

    @cached_property
    def _end(self) -> str:
        """What the template writes after an answer, up to and with the token that ends the turn."""
        after = self._around.after
        return after[: after.index(self._end_token) + len(self._end_token)] if self._end_token else after.rstrip()

    @cached_property
    def end_ids(self) -> list[int]:
        """The token by which the template ends an assistant's turn, if it is one."""
        return [int(self.tokenizer.convert_tokens_to_ids(self._end_token))] if self._end_token else []

    @cached_property
    def _trims(self) -> bool:
        """Whether the template leaves out blanks around an answer."""
        text = self._probed([("user", USER), ("assistant", f" {ASSISTANT} ")])
        return ASSISTANT in text and f" {ASSISTANT} " not in text

    @cached_property
    def _next_turn(self) -> re.Pattern[str] | None:
        """How the template's next turn begins, for models that write it themselves instead of ending their own."""
        _, _, rest = self._probed([("user", USER), ("assistant", ASSISTANT), ("user", NEXT)]).partition(ASSISTANT)
        user = rest.partition(NEXT)[0].lstrip().removeprefix(self._end.strip()).strip().removeprefix(str(self.tokenizer.bos_token or ""))
        closed = self._probed([("user", USER)])
        opened = self.example
        assistant = opened.removeprefix(closed) if opened.startswith(closed) else ""
        headers = [text.strip().split("\n")[0].strip() for text in (user, assistant)]
        if not self._end_token:  # a marker of the end that is no token of its own
            headers.append(self._end.strip().split("\n")[0])
        patterns = [_marker(header) for header in dict.fromkeys(headers) if header]
        return re.compile("|".join(patterns)) if patterns else None

    @cached_property
    def _thinks(self) -> tuple[str, str] | None:
        """The markers of the thought that the generation prompt itself opens."""
        return next((pair for pair in THOUGHTS if self.example.rstrip().endswith(pair[0])), None)

    @cached_property
    def has_switch(self) -> bool:
        """Whether the template writes thinking otherwise when it is switched on."""
        turns = [("system", SYSTEM), ("user", USER)]
        other = ChatFormat(self.tokenizer, not self.thinking)
        return self._question != other._question or self._probed(turns, True) != other._probed(turns, True)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, special))) if special else None

    def answer(self, ids: Sequence[int]) -> Answer:
        """The answer in what a model wrote, apart from its thoughts and from the turns that it went on to write."""
        written = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        pair = self._thinks or next((pair for pair in THOUGHTS if written.lstrip().startswith(pair)), None)
        thoughts, rest = "", written
        if pair is not None:
            head, close, rest = written.partition(pair[1])
            if not close:
                return Answer("", written, UNFINISHED)
            thoughts, rest = head + close + rest[: len(rest) - len(rest.lstrip())], rest.lstrip()
        turn = self._next_turn.search(rest) if self._next_turn else None
        if turn is None and not thoughts:
            return Answer(str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip())
        rest = rest[: turn.start()] if turn else rest
        return Answer((self._special.sub("", rest) if self._special else rest).strip(), thoughts)

    def tokenise(self, chat: Chat | str, max_tokens: int | None = None) -> TokenisedChat:
        """Token ids and roles of one chat.

        Of a plain text all is response but the first token, which nothing predicts. `max_tokens` cuts the response, never the prompt.
        Warns with `ChatFormatWarning` where the template is not followed to the letter; raises `ModelError` where it rejects the chat.
        """
        if isinstance(chat, str):
            ids = list(self.tokenizer(chat)["input_ids"])[:max_tokens]
            return TokenisedChat(ids, [int(Role.TEMPLATE), *[int(Role.RESPONSE)] * (len(ids) - 1)][: len(ids)], 1)
        turns = [(message.role, message.content) for message in chat.prompt.messages]
        self._say_deviations(turns)
        prompt_text = self.render(turns, open_end=True)
        marked_text = self.render([(role, f"\ue000{i}\ue000") for i, (role, _content) in enumerate(turns)], open_end=True)
        prompt = self.tokenizer(prompt_text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(prompt["input_ids"])
        roles = _prompt_roles(prompt_text, marked_text, prompt["offset_mapping"], chat.prompt.messages)
        n_prompt = len(ids)
        if chat.response is not None:
            skipped, response = self._response(chat.messages[-1])
            for role, text in ((Role.TEMPLATE, skipped), (Role.RESPONSE, response)):
                own = self._continuation(prompt_text, ids, text)
                ids, roles, prompt_text = ids + own, roles + [int(role)] * len(own), prompt_text + text
        kept = len(ids) if max_tokens is None else max(max_tokens, n_prompt)
        return TokenisedChat(ids[:kept], roles[:kept], n_prompt)

    def _response(self, message: Message) -> tuple[str, str]:
        """What ends a thought that the prompt opened and the assistant did not think; then the response, with the end of its turn."""
        if message.thoughts:
            return "", message.thoughts + message.content + (self._end if message.content else "")
        text = self._lead + (message.content.strip() if self._trims else message.content) + self._end
        return (f"\n{self._thinks[1]}\n\n" if self._thinks and self._thinks[1] not in text else ""), text if self._end else text.rstrip(
            "\n"
        )

    def _continuation(self, before: str, ids: list[int], text: str) -> list[int]:
        """Tokens of `text` after `before`, whose tokens are `ids`."""
        if text and self._writes_prefix:  # tokenised by itself it would begin with a blank of its own
            whole = list(self.tokenizer(before + text, add_special_tokens=False)["input_ids"])
            if whole[: len(ids)] == ids:
                return whole[len(ids) :]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    @cached_property
    def _writes_prefix(self) -> bool:
        """Whether the tokenizer puts a blank before a text, as SentencePiece does."""
        alone, after = (list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a", "\na"))
        return after[-len(alone) :] != alone

    def _say_deviations(self, turns: Sequence[tuple[str, str]]) -> None:
        name = str(self.tokenizer.name_or_path or "a model")
        if turns and turns[0][0] == "system" and self._folds_system:
            self._say(f"The chat template of {name} takes no system prompt: it is put before the first question, as its users do.")
        if self._missing_header:
            written = f"what it writes before an assistant's turn, {self._missing_header!r}, ends the prompt"
            self._say(f"The chat template of {name} has no generation prompt: {written}.")
        if self.thinking and not self.has_switch and self._thinks is None:
            self._say(f"The chat template of {name} has no switch for thinking, so thinking changes nothing there.")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, ChatFormatWarning, stacklevel=4)


def say_other_format(base: ChatFormat, tuned: ChatFormat, base_name: str, tuned_name: str) -> None:
    """Warn with `ChatFormatWarning` where a fine-tune is asked in another format than its base."""
    if base.example != tuned.example:
        ours, theirs = (repr(chats.example.replace(USER, "…")) for chats in (base, tuned))
        warnings.warn(
            f"{tuned_name} is asked in its own chat format, {theirs}, and its base {base_name} in another, {ours}.",
            ChatFormatWarning,
            stacklevel=3,
        )


def _folded(turns: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """The system prompt at the beginning of the user turn after it."""
    (_, system), *rest = turns
    if not rest or rest[0][0] != "user":
        return turns
    return [("user", f"{system}\n\n{rest[0][1]}"), *rest[1:]]


def _marker(header: str) -> str:
    """A pattern for the header of a turn; one of ordinary words stands at the beginning of a line, and a bare word alone on it."""
    pattern = re.escape(header)
    if header[0].isalnum():
        pattern = rf"(?m:^)[ \t]*{pattern}"
    return rf"{pattern}[ \t]*(?m:$)" if header.isalnum() else pattern


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
