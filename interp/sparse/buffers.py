"""Memory of the last step's gradients, used again for the next.

A fresh tensor of tens of megabytes costs more than filling it: the system maps and zeroes every page again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_free: list[torch.Tensor] = []


def take(like: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape, type and device of `like`, holding whatever it holds."""
    for index, buffer in enumerate(_free):
        if buffer.shape == like.shape and buffer.dtype == like.dtype and buffer.device == like.device:
            return _free.pop(index)
    return torch.empty_like(like, requires_grad=False, memory_format=torch.contiguous_format)


def recycle(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Take the gradients off `parameters`, to be handed out again. Nothing else may hold them any more."""
    _free.clear()
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_contiguous():
                _free.append(parameter.grad)
            parameter.grad = None
