"""`interp.sparse.encode` and `decode` by plain autograd on dense matrices: slow, and right."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from interp.sparse.codes import Codes, row_starts_of
from interp.sparse.rules import Above, BatchTopK, Rule, TopK


def encode(
    x: Float[torch.Tensor, "tokens d_in"],
    weight: Float[torch.Tensor, "latents d_in"],
    bias: Float[torch.Tensor, " latents"],
    rule: Rule,
    centre: Float[torch.Tensor, " d_in"] | None = None,
    among: Int[torch.Tensor, " some"] | None = None,
) -> Codes:
    """As `interp.sparse.encode`."""
    pre = (x if centre is None else x - centre) @ weight.T + bias
    allowed = torch.ones(len(weight), dtype=torch.bool) if among is None else torch.zeros(len(weight), dtype=torch.bool)
    if among is not None:
        allowed[among] = True
    chosen = _chosen(pre.detach().masked_fill(~allowed, -torch.inf), rule)
    tokens, latents = chosen.nonzero(as_tuple=True)
    return Codes(pre[tokens, latents], latents.int(), row_starts_of(chosen.sum(1)), len(weight))


def decode(codes: Codes, weight: Float[torch.Tensor, "latents d_in"]) -> Float[torch.Tensor, "tokens d_in"]:
    """As `interp.sparse.decode`."""
    return codes.dense() @ weight


def _chosen(pre: Float[torch.Tensor, "tokens latents"], rule: Rule) -> torch.Tensor:
    """Which entries `rule` chooses, as a mask."""
    if isinstance(rule, Above):
        return pre > rule.bound
    assert isinstance(rule, TopK | BatchTopK)
    score = pre if rule.scale is None else pre * rule.scale
    if isinstance(rule, TopK):
        return torch.zeros_like(pre, dtype=torch.bool).scatter(1, score.topk(rule.k, dim=1).indices, True)
    flat = score.clamp(min=0).flatten()
    largest = flat.topk(min(rule.k * len(pre), flat.numel())).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(0, largest, True).view_as(pre) & (score > 0)
