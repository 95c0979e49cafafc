"""Train sparse dictionaries (SAEs, crosscoders) on residual activations of language models."""

from sae_training.config import TrainConfig
from sae_training.trainer import train, train_all

__all__ = ["TrainConfig", "train", "train_all"]
