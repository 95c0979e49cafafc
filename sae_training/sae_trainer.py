"""One dictionary while it is being trained: its weights, optimizer, schedule and what it remembers of its latents."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float

from interp.core.errors import TrainingError
from interp.sparse import Codes, buffers
from sae_training.architectures import build
from sae_training.architectures.base import StepContext
from sae_training.config import TrainConfig, learning_rate_share
from sae_training.distributed import World
from sae_training.normalise import Normaliser, layout_of

DIVERGED = 100.0
"""An unexplained share of the input's variance beyond which training is lost; predicting the mean has 1."""


class SAETrainer:
    """`step` does one optimizer step on a batch; `state` and `restore` are what a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, normaliser: Normaliser, shape: tuple[int, int], steps: int, batch: int, seed: int, device: torch.device
    ) -> None:
        """`shape` is (n_models, d_in), `batch` the tokens of a step over all processes."""
        self.config, self.normaliser, self.steps = config, normaliser.to(device), steps
        rows_a_token = shape[0] if config.reads == "each" else 1
        self.dead_after = rows_a_token * (config.dead_after_tokens or min(10_000_000, max(1, steps * batch // 10)))
        self.layout = layout_of(config.reads, *shape)
        self.coder = build(config.architecture, self.layout, torch.Generator().manual_seed(seed)).to(device)
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=config.learning_rate, fused=True)
        n_latents = config.architecture.n_latents
        self.silent = torch.zeros(n_latents, dtype=torch.long, device=device)
        """Rows since each latent last fired."""
        self.fired = torch.zeros(n_latents, dtype=torch.long, device=device)
        """Rows at which each latent fired while the learning rate fell (or in the last tenth), when weights hardly move any more."""
        self.fired_of = 0
        """Of so many rows."""

    def step(self, residuals: Float[torch.Tensor, "tokens n_models d_in"], step: int, world: World) -> dict[str, float | torch.Tensor]:
        """One optimizer step on this process's share of a batch. Returns metrics; raises `TrainingError` where the loss is lost."""
        config, coder = self.config, self.coder
        x = self.normaliser(residuals)
        rows = len(residuals) * (residuals.shape[1] if config.reads == "each" else 1)
        kept = int(world.sum(torch.tensor(len(x), device=x.device))) if world.size > 1 else len(x)
        if world.any(not len(x), x.device):
            raise TrainingError("All tokens of the batch are outliers. Raise outlier_factor, or batch_tokens.")
        weight = len(x) * world.size / kept  # so that the mean over processes is that over tokens
        dead = (self.silent >= self.dead_after).nonzero()[:, 0]
        context = StepContext(
            dead=dead,
            ramp=min(1.0, (step + 1) / max(1.0, config.sparsity_warmup * self.steps)),
            mean=lambda value: world.mean(value * weight),
            all_gather=world.all_gather if world.size > 1 else None,
            tokens=kept,
        )
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            outcome = coder.outcome(x, context)
        losses = {name: loss * weight for name, loss in outcome.losses.items()}
        # Summed over a row's numbers, as published trainers do: gradients stay far above Adam's epsilon.
        loss: torch.Tensor = sum(losses.values(), torch.zeros((), device=x.device)) * self.layout.width
        loss.backward()
        parameters = list(coder.parameters())
        world.average_gradients(parameters)
        coder.after_backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        rate = config.learning_rate * learning_rate_share(step, self.steps, config.warmup, config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            error = world.sum((outcome.reconstruction - x).square().sum())
            spread = world.sum(x.square().sum())  # about the mean of the sample
            fvu = float(error / spread)
        if not (math.isfinite(fvu) and bool(torch.isfinite(norm))) or fvu > DIVERGED:
            raise TrainingError(self._what_went_wrong(world.any(not bool(torch.isfinite(x).all()), x.device), fvu))
        self.optimizer.step()
        coder.after_step()
        n_active = self._remember(outcome.codes, kept, step, world)
        buffers.recycle(parameters)
        return {
            "fvu": fvu,
            "l0": n_active / kept,
            "dead_share": len(dead) / len(self.silent),
            "learning_rate": rate,
            "gradient_norm": norm,
            "outliers": rows * world.size - kept,
            **{f"loss_{name}": world.mean(value) for name, value in losses.items()},
        }

    def _remember(self, codes: Codes, tokens: int, step: int, world: World) -> int:
        counts = world.sum(codes.counts())
        self.silent += tokens
        self.silent[counts > 0] = 0
        if step >= int(self.steps * (1 - max(self.config.decay, 0.1))):
            self.fired += counts
            self.fired_of += tokens
        return int(counts.sum())

    def _what_went_wrong(self, bad_input: bool, fvu: float) -> str:
        if bad_input:
            return "The batch holds residuals that are not finite. Capture them in float32."
        return f"Training diverged: the unexplained share of variance is {fvu:.3g}. Lower learning_rate, or raise warmup."

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on."""
        state = {f"coder.{name}": value for name, value in self.coder.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state | {"silent": self.silent, "fired": self.fired, "fired_of": torch.tensor(self.fired_of)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Resume from `state`."""
        self.coder.load_state_dict({name.removeprefix("coder."): value for name, value in state.items() if name.startswith("coder.")})
        moments: dict[int, dict[str, Any]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.silent, self.fired = state["silent"].to(self.silent.device), state["fired"].to(self.fired.device)
        self.fired_of = int(state["fired_of"])
