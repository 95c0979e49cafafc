"""`personascope chat`: base, tuned and edited model answer side by side, each with a history of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from rich.console import Console

from interp.cli.arguments import ChatArguments
from interp.core.errors import ConfigError, PersonascopeError
from interp.core.streams import stream_seed
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.models.chats import Chat, Message
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from interp.reports.terminal import plain_console, side_by_side, written
from interp.studies.opened import StudyRun
from interp.studies.steering_config import ChatConfig

HELP = "Type a message. /reset starts a new conversation, /quit leaves."


@dataclass
class Voice:
    """A model in the conversation."""

    name: str
    model: LanguageModel
    edit: Edit | None = None
    history: list[Message] = field(default_factory=list)

    def answer(self, message: str, sampling: SamplingConfig, seed: int) -> str:
        """The model's answer. Raises `ConfigError` when the conversation is too long for it."""
        chat = Chat((*self.history, Message("user", message)))
        longest = getattr(self.model.network.config.get_text_config(), "max_position_embeddings", None)
        length = len(self.model.tokenise([chat])[0].ids) + sampling.max_new_tokens
        if longest is not None and length > longest:
            raise ConfigError(f"The conversation needs {length} tokens, {self.name} reads {longest}. Type /reset.")
        with nullcontext() if self.edit is None else edited(self.model, self.edit):
            return generate(self.model, [chat], sampling, seed)[0]


def chat(config: ChatConfig, arguments: ChatArguments) -> None:
    """Talk until /quit or the end of the input."""
    console = plain_console()
    run = StudyRun(arguments.run, arguments.device, quiet=True)
    edit = run.removing(config.latents, config.kind, config.layers) if config.latents else run.verdict_edit("ablated")
    tokens = {} if arguments.tokens is None else {"max_new_tokens": arguments.tokens}
    sampling = run.config.sampling.model_copy(update=tokens | ({"temperature": 0.0} if arguments.greedy else {}))
    voices = [Voice("base", run.context.base), Voice("tuned", run.context.tuned), Voice("edited", run.context.tuned, edit)]
    if not arguments.as_json:
        console.print(f"edited: {edit.label}. {HELP}", style="dim")
    _talk(voices, sampling, run.config.seed, console, arguments.as_json)


def _talk(voices: list[Voice], sampling: SamplingConfig, seed: int, console: Console, as_json: bool) -> None:
    turn = 0
    for line in _lines(console, quiet=as_json):
        message = line.strip()
        if not message:
            continue
        if message == "/quit":
            return
        if message == "/reset":
            for voice in voices:
                voice.history = []
            if not as_json:
                console.print("A new conversation.", style="dim")
        elif message.startswith("/"):
            print(f"There is no {message}. {HELP}", file=sys.stderr)
        else:
            turn += 1
            _ask(voices, message, sampling, stream_seed(seed, "turn", turn), console, as_json)


def _ask(voices: list[Voice], message: str, sampling: SamplingConfig, seed: int, console: Console, as_json: bool) -> None:
    try:
        answers = {voice.name: voice.answer(message, sampling, seed) for voice in voices}
    except PersonascopeError as error:
        print(f"personascope: {error}", file=sys.stderr)
        return
    for voice in voices:
        voice.history += [Message("user", message), Message("assistant", answers[voice.name])]
    if as_json:
        print(json.dumps({"you": message, **answers}, ensure_ascii=False), flush=True)
        return
    side_by_side(console, [(name, [written(answer)]) for name, answer in answers.items()])
    console.print()


def _lines(console: Console, quiet: bool) -> Iterator[str]:
    """What is typed, with a prompt; or the lines of a pipe, shown as if they were typed."""
    if not sys.stdin.isatty():
        for line in map(_readable, sys.stdin):
            if not quiet and line.strip():
                console.print(f"you: {line.strip()}", style="bold")
            yield line
        return
    import readline  # noqa: F401 (arrow keys and history at the prompt)

    while True:
        try:
            yield _readable(input("you: "))
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _readable(line: str) -> str:
    """What was typed in another encoding, with question marks in place of what UTF-8 has not."""
    return line.encode("utf-8", "replace").decode("utf-8")
