"""Residuals whose true features are known: sums of a few random directions."""

from __future__ import annotations

import torch
from jaxtyping import Float

from sae_training.feed import MemorySource

HOOK = "blocks.0.hook_resid_post"


def directions(count: int, d_in: int, seed: int) -> Float[torch.Tensor, "features d_in"]:
    """Random directions of norm one. A dictionary that is drawn from the same seed does not begin with them."""
    rows = torch.randn(count, d_in, generator=torch.Generator().manual_seed(1_000_003 * (seed + 1)))
    return torch.nn.functional.normalize(rows, dim=1)


def amounts(tokens: int, features: int, active: int, seed: int) -> Float[torch.Tensor, "tokens features"]:
    """How much of each feature a token has: `active` of them, 0.5 to 1.5 each, the others none."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + 1)
    chosen = torch.rand(tokens, features, generator=generator).topk(active, dim=1).indices
    return torch.zeros(tokens, features).scatter(1, chosen, torch.rand(tokens, active, generator=generator) + 0.5)


def sums(tokens: int, features: int, d_in: int, active: int, seed: int = 0, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of `active` directions a token, noisy, scaled and shifted, `[tokens, 1, d_in]`; and the directions."""
    rows = directions(features, d_in, seed)
    generator = torch.Generator().manual_seed(seed + 77)
    x = amounts(tokens, features, active, seed) @ rows + noise * torch.randn(tokens, d_in, generator=generator)
    return (3 * x + 2 * torch.randn(d_in, generator=generator))[:, None], rows


def small_source(
    tokens: int = 600, d_in: int = 12, n_models: int = 1, hook_points: tuple[str, ...] = (HOOK,), block_rows: int = 100
) -> MemorySource:
    """A feed that trains in no time; the second model differs from the first, and each hook point from the others."""
    residuals = {}
    for seed, name in enumerate(hook_points):
        models = [sums(tokens, 20, d_in, 3, seed=10 * seed + model, noise=0.05)[0] for model in range(n_models)]
        residuals[name] = torch.cat(models, dim=1)
    return MemorySource(residuals, block_rows)


def cosines(rows: Float[torch.Tensor, "latents d_in"], true: Float[torch.Tensor, "features d_in"]) -> torch.Tensor:
    """Cosine of every row with every true direction, `[latents, features]`."""
    return torch.nn.functional.normalize(rows, dim=1) @ true.T


def recovered(rows: Float[torch.Tensor, "latents d_in"], true: Float[torch.Tensor, "features d_in"], at: float = 0.95) -> float:
    """Share of the true directions that some row matches at this cosine."""
    return float((cosines(rows, true).max(0).values >= at).float().mean())


def planted_pair(
    tokens: int, shared: int, tuned_only: int, d_in: int, active: int, seed: int = 0, noise: float = 0.0
) -> tuple[Float[torch.Tensor, "tokens 2 d_in"], Float[torch.Tensor, "features d_in"]]:
    """Residuals of a base and a tuned model that share most features, in the same directions; and those only the tuned one has."""
    rows = directions(shared + tuned_only, d_in, seed)
    found = amounts(tokens, shared + tuned_only, active, seed)
    generator = torch.Generator().manual_seed(seed + 78)
    pair = torch.stack([found[:, :shared] @ rows[:shared], found @ rows], dim=1)
    pair += noise * torch.randn(pair.shape, generator=generator)
    return 3 * pair + torch.randn(2, d_in, generator=generator), rows[shared:]
