"""The one family of errors that a user can fix: what is wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable


class PersonascopeError(Exception):
    """Wrong use or wrong input. The command line prints it without a traceback and exits with 2."""


def reason_of(error: Exception) -> str:
    """What the operating system says, else the first line of what the library says, to be put into a sentence."""
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ")


def did_you_mean(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> str:
    """A question to add after a sentence: up to `n` of `known` whose likeness to `name` (difflib, 0 to 1) is `cutoff`; else empty."""
    nearest = difflib.get_close_matches(name, list(known), n, cutoff)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


class ModelError(PersonascopeError):
    """A model cannot be opened, or two models do not belong together."""


class HookPointError(PersonascopeError):
    """A hook point that the model does not have."""


class EditError(PersonascopeError):
    """An edit that is malformed, or that would change nothing."""


class DictionaryError(PersonascopeError):
    """A dictionary (SAE) that cannot be read, or does not fit the model."""


class ConfigError(PersonascopeError):
    """A configuration, question or recipe file that cannot be used."""


class ArtifactError(PersonascopeError):
    """A run directory that is locked, damaged or not what it should be."""


class ActivationError(PersonascopeError):
    """Activations that are missing, not finite, or of the wrong shape."""


class TrainingError(PersonascopeError):
    """Training that diverged or cannot start."""


class ModelWarning(UserWarning):
    """A model used in a way that it was not made for."""


class EditWarning(UserWarning):
    """An edit that saw tokens and changed none of them."""


class DictionaryWarning(UserWarning):
    """A dictionary, or a persona vector, that may not hold what it is asked about."""


class ChatFormatWarning(UserWarning):
    """A chat that is not written to the letter of the model's template, or models that are asked in different formats."""


class StepWarning(UserWarning):
    """A step waits for another process."""
