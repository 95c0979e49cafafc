"""Orders of suspicion: which latents to test for being the cause."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.diffing.moments import Moments
from interp.diffing.significance import bootstrap_means, q_values
from interp.errors import DictionaryError


def rise_in_mean(base: Moments, tuned: Moments) -> Float[np.ndarray, "questions latents"]:
    """Tuned minus base mean activation over the response phase, for each question (Wang et al. 2025, arXiv:2506.19823)."""
    return (tuned.response_means - base.response_means).double().numpy()


def cosine_with(w_dec: Float[torch.Tensor, "latents d_model"], direction: Float[torch.Tensor, " d_model"]) -> Float[np.ndarray, " latents"]:
    """Cosine of every decoder row with `direction`, for example a persona vector (Chen et al. 2025, arXiv:2507.21509)."""
    return torch.nn.functional.cosine_similarity(w_dec, direction[None].to(w_dec), dim=-1).double().cpu().numpy()


def latent_table(
    base: Moments, tuned: Moments, w_dec: Float[torch.Tensor, "latents d_model"], persona_vector: Float[torch.Tensor, " d_model"], seed: int
) -> pd.DataFrame:
    """All statistics of all latents, one row each, in order of latent.

    Raises `DictionaryError` when no latent moved at all: then base and tuned are the same model, or the dictionary is dead.
    """
    differences = rise_in_mean(base, tuned)
    if not differences.any():
        raise DictionaryError("No latent differs between base and tuned: the models are the same, or the dictionary never fires.")
    low, high = bootstrap_means(differences, seed)
    table = pd.DataFrame(
        {
            "latent": np.arange(differences.shape[1]),
            "rise": differences.mean(axis=0),
            "rise_low": low,
            "rise_high": high,
            "q_value": q_values(differences),
            "mean_base": base.response_means.double().mean(0).numpy(),
            "mean_tuned": tuned.response_means.double().mean(0).numpy(),
            "rate_base": base.firing_rate.numpy(),
            "rate_tuned": tuned.firing_rate.numpy(),
            "mean_prompt_end_base": base.prompt_end_means.double().mean(0).numpy(),
            "mean_prompt_end_tuned": tuned.prompt_end_means.double().mean(0).numpy(),
            "cosine_persona": cosine_with(w_dec, persona_vector),
        }
    )
    table["rank_rise"] = table["rise"].rank(ascending=False, method="first").astype(int)
    table["rank_cosine"] = table["cosine_persona"].rank(ascending=False, method="first").astype(int)
    return table


def candidates(table: pd.DataFrame, per_order: int, largest_q: float) -> pd.DataFrame:
    """Latents that rose surely (q ≤ `largest_q`, rise > 0) and lead in at least one order; column `orders` says in which."""
    risen = table[(table["q_value"] <= largest_q) & (table["rise"] > 0)]
    by_rise = set(risen.nlargest(per_order, "rise")["latent"])
    by_cosine = set(risen[risen["cosine_persona"] > 0].nlargest(per_order, "cosine_persona")["latent"])
    chosen = risen[risen["latent"].isin(by_rise | by_cosine)].copy()
    chosen["orders"] = [
        ",".join(name for name, members in (("rise", by_rise), ("cosine", by_cosine)) if latent in members) for latent in chosen["latent"]
    ]
    return chosen.sort_values("rank_cosine").reset_index(drop=True)
