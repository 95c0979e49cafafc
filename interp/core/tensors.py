"""What is asked of any tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no entry is NaN or infinite: one pass, no copy, for NaN spreads to both extremes."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())
