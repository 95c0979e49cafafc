"""Small dictionaries of every architecture, with weights as if they were trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_training.architectures import build
from sae_training.architectures.base import SparseCoder
from sae_training.architectures.batch_topk import BatchTopKCoder
from sae_training.architectures.gated import GatedCoder
from sae_training.architectures.jumprelu import JumpReLUCoder
from sae_training.config import BatchTopKConfig, CoderConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, StandardConfig, TopKConfig
from sae_training.normalise import Layout

D_IN, LATENTS, TOKENS = 6, 40, 30
DEAD = torch.tensor([1, 4, 7, 8, 15, 16, 23, 30, 38])

UNIT: dict[str, Any] = {"n_latents": LATENTS, "decoder_norm": "unit"}
KINDS: dict[str, CoderConfig] = {
    "topk": TopKConfig(k=3, **UNIT),
    "multi_k": TopKConfig(k=2, multi_k=4, **UNIT),
    "batchtopk": BatchTopKConfig(k=3, **UNIT),
    "matryoshka": MatryoshkaConfig(k=3, nested=[0.1, 0.3, 0.5], **UNIT),
    "jumprelu": JumpReLUConfig(l0_weight=0.02, **UNIT),
    "standard": StandardConfig(**UNIT),
    "gated": GatedConfig(**UNIT),
}
FREE = {kind: config.model_copy(update={"decoder_norm": "folded"}) for kind, config in KINDS.items() if kind not in ("gated", "jumprelu")}
OF_PAIRS = {kind: config for kind, config in KINDS.items() if kind != "gated"}
DEDICATED = {"base_only": 5, "tuned_only": 7}
NESTED = "matryoshka"  # has no dedicated latents
CASES: dict[str, tuple[CoderConfig, int]] = {
    **{kind: (config, 1) for kind, config in KINDS.items()},
    **{f"{kind}-folded": (config, 1) for kind, config in FREE.items()},
    **{f"{kind}-pair": (config, 2) for kind, config in OF_PAIRS.items()},
    **{f"{kind}-pair-folded": (config, 2) for kind, config in FREE.items()},
    **{f"{kind}-pair-dedicated": (config.model_copy(update=DEDICATED), 2) for kind, config in OF_PAIRS.items() if kind != NESTED},
    **{f"{kind}-pair-folded-dedicated": (config.model_copy(update=DEDICATED), 2) for kind, config in FREE.items() if kind != NESTED},
}
all_cases = pytest.mark.parametrize("case", CASES)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def as_if_trained(coder: SparseCoder, seed: int = 0) -> SparseCoder[Any]:
    """Random weights where a fresh dictionary has equal or zero ones; what a step keeps is kept."""
    for parameter in (coder.encoder, coder.decoder):
        parameter /= parameter.norm(dim=1, keepdim=True)
    coder.encoder += 0.4 * randn(*coder.encoder.shape, seed=seed + 1)
    coder.encoder_bias += 0.3 * randn(LATENTS, seed=seed + 2)
    coder.decoder_bias += 0.3 * randn(coder.layout.width, seed=seed + 3)
    if coder.config.decoder_norm == "folded":
        coder.decoder *= (0.5 * randn(LATENTS, 1, seed=seed + 4)).exp()
        coder.decoder *= 1 + 0.2 * randn(*coder.decoder.shape, seed=seed + 5)
    for parameter in (coder.encoder, coder.decoder):
        for foreign in coder._foreign(parameter):
            foreign.zero_()
    if isinstance(coder, JumpReLUCoder):
        coder.log_threshold += 0.3 * randn(LATENTS, seed=seed + 6)
    if isinstance(coder, GatedCoder):
        coder.log_gain += 0.4 * randn(LATENTS, seed=seed + 7)
        coder.magnitude_bias += 0.3 * randn(LATENTS, seed=seed + 8)
    if isinstance(coder, BatchTopKCoder):
        coder.threshold.fill_(0.9)
    return coder


def made(case: str, seed: int = 0) -> tuple[SparseCoder, torch.Tensor]:
    """A dictionary and rows for it, in float64."""
    config, n_models = CASES[case]
    layout = Layout(D_IN, n_models)
    coder = as_if_trained(build(config, layout, torch.Generator().manual_seed(seed)), seed).double()
    return coder, randn(TOKENS, layout.width, seed=seed + 100).double()


def preactivations(coder: SparseCoder, x: torch.Tensor) -> torch.Tensor:
    return (x - coder.decoder_bias) @ coder.encoder.T + coder.encoder_bias
