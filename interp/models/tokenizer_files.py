"""Tokenizers from files: a model's own, and what an adapter's folder brings of its own (tokenizer, chat template, end of turn)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from interp.core.errors import ModelError, reason_of
from interp.core.files import read_json

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
ALSO = ("*.tiktoken", "*.model", "tokenization_*.py")
"""Names that models with code of their own give such files."""
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def file_of(source: str, name: str) -> Path | None:
    """A file of a folder or hub id, None where there is none."""
    from transformers.utils.hub import cached_file

    lenient = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        file = cached_file(str(Path(source).expanduser()), name, **lenient)
    except (OSError, ValueError):
        return None  # opening it as a model says what is wrong
    return Path(file) if file else None


def open_tokenizer(source: str, trust_remote_code: bool = False, **given: Any) -> Any:
    """The tokenizer of a folder or hub id, `given` as of `from_pretrained`.

    Raises `ModelError` for a folder without a vocabulary, and for a file of a format that the installed tokenizers do not know.
    """
    import tokenizers
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not any(any(folder.glob(name)) for name in (*VOCABULARIES, *ALSO)):
        raise ModelError(f"{source} holds no tokenizer ({', '.join(VOCABULARIES[:3])} …). Copy the tokenizer's files of its base there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, **given)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ModelError(  # the reader in Rust raises nothing more special
            f"tokenizers {tokenizers.__version__} cannot read the tokenizer.json of {source}: {reason_of(error)}. "
            "A newer version may have written it: pip install --upgrade tokenizers transformers"
        ) from error
    if tokenizer.chat_template is None and (file := file_of(source, "chat_template.json")):  # transformers reads it for processors alone
        tokenizer.chat_template = read_json(file).get("chat_template")
    return tokenizer


def adapter_tokenizer(adapter: str, base: Any, config: Any, trust_remote_code: bool = False) -> Any:
    """The tokenizer that an adapter's folder brings, else that of its base; its template is the adapter's, wherever that stands.

    `config` is that of the base's network. Raises `ModelError` as `open_tokenizer` does.
    """
    settings = read_json(file) if (file := file_of(adapter, "tokenizer_config.json")) else {}
    if any(file_of(adapter, name) for name in VOCABULARIES):
        lacking = {name: getattr(base, name) for name in SPECIAL if name not in settings and getattr(base, name)}
        tokenizer = open_tokenizer(adapter, trust_remote_code, config=config, **lacking)
    else:
        tokenizer = copy.deepcopy(base)
        tokenizer.chat_template = settings.get("chat_template") or _template_alone(adapter)
        for name in SPECIAL:
            token = settings.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if text in tokenizer.get_vocab():
                setattr(tokenizer, name, text)
    if not tokenizer.chat_template:
        tokenizer.chat_template = base.chat_template
    return tokenizer


def _template_alone(source: str) -> str | None:
    if file := file_of(source, "chat_template.jinja"):
        return file.read_text(encoding="utf-8")
    return read_json(file).get("chat_template") if (file := file_of(source, "chat_template.json")) else None


def added_tokens(tokenizer: Any, base: Any) -> dict[str, int]:
    """The tokens, with their ids, that `tokenizer` has and that of its base has not."""
    known = base.get_vocab()
    return {token: place for token, place in tokenizer.get_vocab().items() if token not in known}


def adapter_generation(adapter: str) -> Any:
    """The generation config that an adapter's folder brings, None where it brings none."""
    from transformers import GenerationConfig

    file = file_of(adapter, "generation_config.json")
    return GenerationConfig(**read_json(file)) if file else None
