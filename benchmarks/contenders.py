"""One training step of a TopK autoencoder, as three trainers do it, on rows that are in memory.

All three use `torch.optim.Adam(fused=True)`, the same learning rates and the same normalised rows. Where steps are timed no latent
counts as dead, so nobody has a loss for dead latents; where quality is compared each has what it has by default.

- ours: `sae_training.sae_trainer.SAETrainer.step`, as `train` runs it with default settings: it normalises the rows, clips, counts what
  fires and computes metrics.
- sae-lens: its `SAETrainer.step` on a `TopKTrainingSAE` with default settings (dense activations): squared error, clipping, statistics
  of what fires. It lets decoder norms go free and weighs pre-activations by them. Its own Adam is not fused; here it is.
- eai-sparsify: what its `Trainer.fit` does with a batch for `optimizer="adam"` and the loss `fvu`: decoder rows to norm one, forward,
  backward, gradients along decoder rows removed, Adam, what fired. It clips no gradient, so here neither. Its loss for dead latents
  is off by default. On a CPU it decodes by torch's embedding bag (its own fallback), on CUDA by its Triton kernel where it finds one.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch.optim.lr_scheduler import LambdaLR

from interp.core.errors import TrainingError
from interp.sparse.autograd import kernels_for
from sae_training.architectures.base import StepContext
from sae_training.config import TopKConfig, TrainConfig, learning_rate_share
from sae_training.distributed import World
from sae_training.normalise import Normaliser
from sae_training.sae_trainer import SAETrainer

Raw = Float[torch.Tensor, "tokens 1 d_in"]
Rows = Float[torch.Tensor, "tokens d_in"]
NEVER = 10**15


@dataclass(frozen=True)
class Shape:
    """A dictionary and a batch."""

    d_in: int
    n_latents: int
    k: int
    batch: int

    @property
    def parameter_bytes(self) -> int:
        """Encoder and decoder with their biases, float32."""
        return 4 * (2 * self.d_in * self.n_latents + self.n_latents + self.d_in)

    def __str__(self) -> str:
        return "x".join(map(str, (self.d_in, self.n_latents, self.k, self.batch)))


@dataclass(frozen=True)
class Schedule:
    """Of a training; as it stands, for timing: always the same learning rate."""

    learning_rate: float = 1e-3
    steps: int = NEVER
    warmup: float = 0.0
    decay: float = 0.0
    revive: bool = False
    """Whether latents can be dead, so that each trainer's own loss for them is taken."""

    def adam(self, parameters: Any) -> tuple[torch.optim.Adam, LambdaLR]:
        """The optimizer, and what sets its learning rate."""
        adam = torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
        return adam, LambdaLR(adam, lambda step: learning_rate_share(step, self.steps, self.warmup, self.decay))


class Contender(Protocol):
    """A dictionary in training."""

    def step(self, raw: Raw, x: Rows) -> None:
        """One step; `x` is `raw` normalised."""

    def reconstruct(self, x: Rows) -> Rows:
        """Reconstruction of normalised rows."""


class Ours:
    """The trainer of this project."""

    def __init__(self, shape: Shape, normaliser: Normaliser, schedule: Schedule, seed: int, device: torch.device) -> None:
        config = TrainConfig(
            architecture=TopKConfig(n_latents=shape.n_latents, k=shape.k),
            batch_tokens=shape.batch,
            learning_rate=schedule.learning_rate,
            warmup=schedule.warmup,
            decay=schedule.decay,
            dead_after_tokens=None if schedule.revive else NEVER,
        )
        self.trainer = SAETrainer(config, normaliser, (1, shape.d_in), schedule.steps, shape.batch, seed, device)
        self.done, self.world = 0, World()

    def step(self, raw: Raw, x: Rows) -> None:
        """See `Contender.step`."""
        metrics = self.trainer.step(raw, self.done, self.world)
        self.metrics = {name: float(value) for name, value in metrics.items()}
        self.done += 1

    @torch.no_grad()
    def reconstruct(self, x: Rows) -> Rows:
        """See `Contender.reconstruct`."""
        return self.trainer.coder.outcome(x, StepContext()).reconstruction


class SaeLens:
    """sae-lens' trainer."""

    def __init__(self, shape: Shape, normaliser: Normaliser, schedule: Schedule, seed: int, device: torch.device) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(seed)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=shape.d_in, d_sae=shape.n_latents, k=shape.k, device=str(device)))
        config = SAETrainerConfig(
            total_training_samples=NEVER,
            train_batch_size_samples=shape.batch,
            lr=schedule.learning_rate,
            lr_end=schedule.learning_rate,
            device=str(device),
            autocast=device.type == "cuda",
            **({} if schedule.revive else {"dead_feature_window": NEVER}),
        )
        self.trainer = SAETrainer(config, sae, iter(()))
        self.trainer.optimizer, self.trainer.lr_scheduler = schedule.adam(sae.parameters())

    def step(self, raw: Raw, x: Rows) -> None:
        """One turn of the loop in `SAETrainer.fit`."""
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def reconstruct(self, x: Rows) -> Rows:
        """See `Contender.reconstruct`."""
        return self.trainer.sae(x)


class Sparsify:
    """eai-sparsify's trainer."""

    def __init__(self, shape: Shape, normaliser: Normaliser, schedule: Schedule, seed: int, device: torch.device) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints on import
            from sparsify import SparseCoder, SparseCoderConfig, sparse_coder, utils

        # Its choice of a decoder looks whether Triton is there, not where the tensors are.
        sparse_coder.decoder_impl = utils.decoder_impl if device.type == "cuda" else utils.eager_decode
        torch.manual_seed(seed)
        config = SparseCoderConfig(num_latents=shape.n_latents, k=shape.k)
        self.sae = SparseCoder(shape.d_in, config, device, dtype=torch.float32)
        self.optimizer, self.scheduler = schedule.adam(self.sae.parameters())
        self.silent = torch.zeros(shape.n_latents, dtype=torch.long, device=device)
        self.fired = torch.zeros(shape.n_latents, dtype=torch.bool, device=device)
        self.begun = False

    def step(self, raw: Raw, x: Rows) -> None:
        """The loop in `Trainer.fit` and its hook, for one batch."""
        sae = self.sae
        if not self.begun:
            sae.b_dec.data = x.mean(0)
            self.begun = True
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        self.fired[out.latent_indices.flatten()] = True
        self.fvu = float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.silent += len(x)
        self.silent[self.fired] = 0
        self.fired.zero_()

    @torch.no_grad()
    def reconstruct(self, x: Rows) -> Rows:
        """See `Contender.reconstruct`."""
        return self.sae(x).sae_out


class Encoder:
    """Roofline: torch's own dense product of that shape, into memory that is there already."""

    def __init__(self, shape: Shape, normaliser: Normaliser, schedule: Schedule, seed: int, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.weight = torch.randn(shape.n_latents, shape.d_in, device=device, dtype=dtype) / shape.d_in**0.5
        self.bias = torch.zeros(shape.n_latents, device=device, dtype=dtype)
        self.out = torch.zeros(shape.batch, shape.n_latents, device=device, dtype=dtype)

    @torch.no_grad()
    def step(self, raw: Raw, x: Rows) -> None:
        """The product."""
        torch.addmm(self.bias, x.to(self.weight.dtype), self.weight.T, out=self.out)


class BestEncoder:
    """Roofline: the fastest way known here to make the same numbers, a chunk at a time, each chunk forgotten when the next is made."""

    def __init__(self, shape: Shape, normaliser: Normaliser, schedule: Schedule, seed: int, device: torch.device) -> None:
        self.kernels, self.device = kernels_for(device), device
        self.weight = torch.randn(shape.n_latents, shape.d_in, device=device) / shape.d_in**0.5
        self.bias = torch.zeros(shape.n_latents, device=device)

    @torch.no_grad()
    def step(self, raw: Raw, x: Rows) -> None:
        """The product; float32 weights are packed for oneDNN (CPU) or rounded to bfloat16 (CUDA) every time, since a step changes them."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            for _ in self.kernels.preactivations(x, self.weight, self.bias):
                pass


TRAINERS: dict[str, Any] = {"ours": Ours, "sae_lens": SaeLens, "sparsify": Sparsify}
ROOFLINES: dict[str, Any] = {"encoder": Encoder, "encoder_best": BestEncoder}


def check_installed(names: list[str]) -> None:
    """Raise `TrainingError` where a contender's package is missing."""
    if "sparsify" in names:
        try:
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import sparsify  # noqa: F401
        except ImportError as error:
            raise TrainingError(
                f"eai-sparsify cannot be imported ({error}). Install it with `pip install 'personascope[bench]'`, "
                "or leave it out: --contenders ours,sae_lens."
            ) from error
