"""Peak memory of our training step on the CPU, in a process of its own: `python benchmarks/step_memory.py 576 8192 32 2048`.

Counted is how far resident memory grows over what was there before the trainer was made: parameters, optimizer, gradients and all
that a step needs for a while. Libraries and compiled kernels are loaded beforehand, by a step on a tiny dictionary.
"""

from __future__ import annotations

import json
import sys

import torch
from contenders import Ours, Schedule, Shape
from rows import made_up
from timing import PeakMemory

from sae_training.config import TrainConfig
from sae_training.normalise import calibrate

TINY = Shape(64, 512, 8, 256)
STEPS = 3


def bound(shape: Shape) -> dict[str, int]:
    """What the project allows: pre-activations, three buffers as large as the parameters (they are one of them), and Adam's state."""
    return {
        "preactivations": 4 * shape.batch * shape.n_latents,
        "parameter_sized": 3 * shape.parameter_bytes,
        "optimizer": 2 * shape.parameter_bytes,
    }


def train(shape: Shape, raw: torch.Tensor) -> PeakMemory:
    device = torch.device("cpu")
    normaliser = calibrate(raw, TrainConfig())
    memory = PeakMemory()
    ours = Ours(shape, normaliser, Schedule(), 0, device)
    for batch in raw.split(shape.batch):
        ours.step(batch, batch[:, 0])
    return memory


def main() -> None:
    shape = Shape(*map(int, sys.argv[1:]))
    train(TINY, made_up(TINY.d_in, STEPS * TINY.batch, torch.device("cpu")))
    peak = train(shape, made_up(shape.d_in, STEPS * shape.batch, torch.device("cpu"))).growth()
    most = bound(shape)
    print(json.dumps({"peak_bytes": peak, "bound_bytes": sum(most.values()), "bound": most, "ratio": peak / sum(most.values())}))


if __name__ == "__main__":
    main()
