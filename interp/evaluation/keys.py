"""Keys of endpoints: read from the environment alone, and kept out of whatever is shown, raised, logged or saved."""

from __future__ import annotations

import logging
import os
import re
import traceback
from typing import Any, NoReturn
from urllib.parse import urlsplit

from interp.core.errors import ConfigError

OURS, OPENAIS = "PERSONASCOPE_API_KEY", "OPENAI_API_KEY"
"""Environment variables that a key is looked for in; OpenAI's is sent to OpenAI alone."""
KEY_LIKE = re.compile(r"bearer\s+\S+|\bsk-\S+|\S*\*{3,}\S*", re.IGNORECASE)
"""How others' texts show keys, masked ones too."""
LIBRARIES = ("openai", "httpx", "httpcore")
"""Whose logs may quote what a server says."""


class Secret:
    """A key that shows nowhere. `redact` takes it out of others' text: whole, in pieces of four characters or more, or masked."""

    def __init__(self, value: str = "") -> None:
        self._value = value
        size = min(4, len(value))
        pieces = sorted({value[i : i + size] for i in range(len(value) - size + 1)}) if value else []
        self._pieces = re.compile("(?=(" + "|".join(map(re.escape, pieces)) + "))", re.IGNORECASE) if pieces else None

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not saved")

    def reveal(self) -> str:
        """The key, for the request alone."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with *** in place of what may be of the key."""
        hidden = {i for m in self._pieces.finditer(text) for i in range(m.start(), m.start() + len(m[1]))} if self._pieces else set()
        shown = "".join("\0" if i in hidden else letter for i, letter in enumerate(text))
        return KEY_LIKE.sub("***", re.sub("\0+", "***", shown))

    def remove(self, body: Any) -> Any:
        """JSON without the whole key in any text. One of fewer than eight letters is a dummy, and may be a word of an answer."""
        if len(self._value) < 8:
            return body
        if isinstance(body, str):
            return body.replace(self._value, "***")
        if isinstance(body, list):
            return [self.remove(item) for item in body]
        return {self.remove(name): self.remove(value) for name, value in body.items()} if isinstance(body, dict) else body

    @staticmethod
    def from_environment(variable: str | None, url: str) -> Secret:
        """The key in `variable`, by default in one that may be sent to `url`. Raises `ConfigError` without a word of the key."""
        names = _variables(variable, url)
        value = next((os.environ[name].strip() for name in names if os.environ.get(name, "").strip()), "")
        if variable and not value:
            raise ConfigError("The environment variable that key_variable names is not set: give the name of one that holds the key.")
        if not re.fullmatch(r"[!-~]*", value):  # a header would be refused by an error that quotes it
            raise ConfigError(f"The key in {key_variables(variable, url)} holds blanks or letters that no key has: set it anew.")
        return Secret(value)


class _Discreet(logging.Filter):
    """Takes keys out of what the HTTP libraries log: a server may echo one in a status line or a header."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: list[Secret] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without the keys."""
        if record.exc_info and record.exc_info[0]:
            record.exc_text, record.exc_info = self._redact("".join(traceback.format_exception(*record.exc_info))), None
        text = record.getMessage()
        if (safe := self._redact(text)) != text:
            record.msg, record.args = safe, ()
        return True

    def _redact(self, text: str) -> str:
        for secret in self.secrets:
            text = secret.redact(text)
        return text


_DISCREET = _Discreet()


def keep_out_of_logs(secret: Secret) -> None:
    """Redact `secret` in every logger that the HTTP libraries have by now."""
    if secret and secret.reveal() not in [known.reveal() for known in _DISCREET.secrets]:
        _DISCREET.secrets.append(secret)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(LIBRARIES):
            logging.getLogger(name).addFilter(_DISCREET)


def key_variables(variable: str | None, url: str) -> str:
    """Where a key belongs, for a sentence."""
    return " or ".join(_variables(variable, url))


def _variables(variable: str | None, url: str) -> tuple[str, ...]:
    host = urlsplit(url).hostname or ""
    return (variable,) if variable else (OPENAIS, OURS) if host == "openai.com" or host.endswith(".openai.com") else (OURS,)
