"""Dictionary architectures, one short file each over one base; `build` makes the one that a config names."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from sae_training.architectures.base import CoderConfig, Layout, SparseCoder
from sae_training.architectures.batch_topk import BatchTopKCoder, BatchTopKConfig
from sae_training.architectures.gated import GatedCoder, GatedConfig
from sae_training.architectures.jumprelu import JumpReLUCoder, JumpReLUConfig
from sae_training.architectures.matryoshka import MatryoshkaCoder, MatryoshkaConfig
from sae_training.architectures.standard import StandardCoder, StandardConfig
from sae_training.architectures.topk import TopKCoder, TopKConfig

__all__ = [
    "ArchitectureConfig",
    "BatchTopKConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "MatryoshkaConfig",
    "StandardConfig",
    "TopKConfig",
    "build",
]

ArchitectureConfig = Annotated[
    TopKConfig | BatchTopKConfig | MatryoshkaConfig | JumpReLUConfig | GatedConfig | StandardConfig, Field(discriminator="kind")
]
"""Any of the architectures' configs; `kind` says which."""

CODERS: dict[type[CoderConfig], Any] = {
    TopKConfig: TopKCoder,
    BatchTopKConfig: BatchTopKCoder,
    MatryoshkaConfig: MatryoshkaCoder,
    JumpReLUConfig: JumpReLUCoder,
    GatedConfig: GatedCoder,
    StandardConfig: StandardCoder,
}


def build(config: CoderConfig, layout: Layout, generator: torch.Generator) -> SparseCoder:
    """A fresh dictionary; raises `TrainingError` where config and layout do not fit."""
    coder: SparseCoder = CODERS[type(config)](config, layout, generator)
    return coder
