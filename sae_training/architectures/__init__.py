"""Dictionary architectures, one short file each over one base; `build` makes the one that a config names."""

from __future__ import annotations

from typing import Any

import torch

from sae_training import config as configs
from sae_training.architectures.base import SparseCoder
from sae_training.architectures.batch_topk import BatchTopKCoder
from sae_training.architectures.gated import GatedCoder
from sae_training.architectures.jumprelu import JumpReLUCoder
from sae_training.architectures.matryoshka import MatryoshkaCoder
from sae_training.architectures.standard import StandardCoder
from sae_training.architectures.topk import TopKCoder
from sae_training.normalise import Layout

CODERS: dict[type[configs.CoderConfig], Any] = {
    configs.TopKConfig: TopKCoder,
    configs.BatchTopKConfig: BatchTopKCoder,
    configs.MatryoshkaConfig: MatryoshkaCoder,
    configs.JumpReLUConfig: JumpReLUCoder,
    configs.GatedConfig: GatedCoder,
    configs.StandardConfig: StandardCoder,
}


def build(config: configs.CoderConfig, layout: Layout, generator: torch.Generator) -> SparseCoder[Any]:
    """A fresh dictionary; raises `TrainingError` where config and layout do not fit."""
    coder: SparseCoder[Any] = CODERS[type(config)](config, layout, generator)
    return coder
