"""Data-parallel training: what the processes that torchrun started say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """One process among those of torchrun; without torchrun it is alone, and nothing here does anything."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def join(device: torch.device) -> World:
        """Meet the other processes: nccl on CUDA, gloo on the CPU."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return World(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over all processes; takes no gradient."""
        return self.sum(value.detach().clone()) / self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process: what one process stops for, all stop for."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag), device=device)))

    def all_gather(self, values: torch.Tensor) -> torch.Tensor:
        """Numbers of all processes in one row, each its own count of them."""
        if self.size == 1:
            return values
        counts = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(values)], device=values.device))
        longest = max(int(count) for count in counts)
        padded = torch.nn.functional.pad(values.detach(), (0, longest - len(values)))
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        return torch.cat([row[: int(count)] for row, count in zip(gathered, counts, strict=True)])

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Mean of the processes' gradients, in every process."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    self.sum(parameter.grad)
                    parameter.grad /= self.size

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()
