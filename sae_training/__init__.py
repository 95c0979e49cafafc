"""Train sparse dictionaries (SAEs, crosscoders) on residual activations of language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_training.config import TrainConfig
    from sae_training.trainer import train, train_all

__all__ = ["TrainConfig", "train", "train_all"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is trained: the command line reads settings from this package."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sae_training.config" if name == "TrainConfig" else "sae_training.trainer"), name)
