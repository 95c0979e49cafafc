"""From answers to suspects on tiny models: the files of both steps, and what is in them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from interp.diffing.moments import PAIRINGS, load_diff
from interp.diffing.pairings import STATE
from interp.models.activations import mean_residuals, response_phase
from interp.studies.config import DiffConfig
from interp.studies.preparation import ANSWERS, as_chats
from interp.studies.suspicion import make_diff, make_directions, read_directions
from tests.helpers.diffing_truth import HOOK, LATENTS, random_crosscoder, random_dictionary, texts
from tests.helpers.tiny import tiny_model

COLUMNS = {"latent", "rise", "rise_low", "rise_high", "q_value", "mean_base", "mean_tuned", "rate_base", "rate_tuned",
           "mean_prompt_end_base", "mean_prompt_end_tuned", "cosine_persona", "rank_rise", "rank_cosine", "effect", "auroc",
           "cosine_mean_difference", "beta_base", "beta_tuned", "beta_ratio", "attribution", "rise_base_text",
           "rise_tuned_text"}  # fmt: skip


@pytest.fixture
def bench() -> Any:
    """As much of a `Workbench` as the two steps use."""
    return SimpleNamespace(
        base=tiny_model(0),
        tuned=tiny_model(1),
        tuned_source="tiny",
        dictionary=random_dictionary(),
        hook_point=HOOK,
        window=["blocks.0.hook_resid_post"],
        config=SimpleNamespace(diff=DiffConfig(persona_pairs=2), seed=0),
        progress=lambda label, total: nullcontext(lambda n: None),
    )


def answered(folder: Path) -> pd.DataFrame:
    rows = [
        {"question_id": f"q{owner}", "question": question, "answer": answer, "model": name}
        for name, first in (("base", 0), ("tuned", 3))
        for question, answer, owner in texts(first)
    ]
    rows += [{"question_id": "q9", "question": "Why?", "answer": text, "model": name} for name, text in (("base", "So."), ("tuned", ""))]
    table = pd.DataFrame(rows)
    table.to_parquet(folder / ANSWERS)
    return table


def test_directions_and_diff_of_two_models(bench: Any, tmp_path: Path) -> None:
    table = answered(tmp_path)
    bench.unfinished = tmp_path / "state"
    make_directions(bench, tmp_path, tmp_path)
    directions = read_directions(tmp_path)
    assert list(directions.base_means) == bench.window
    base, tuned = (
        mean_residuals(model, as_chats(table, name), [HOOK], where=response_phase)[HOOK]
        for name, model in (("base", bench.base), ("tuned", bench.tuned))
    )
    torch.testing.assert_close(directions.mean_difference, tuned - base)
    assert directions.median_norm > 0
    make_diff(bench, tmp_path, tmp_path, tmp_path)
    latents = pd.read_parquet(tmp_path / "latents.parquet")
    assert set(latents.columns) >= COLUMNS
    assert len(latents) == LATENTS
    diff, _ = load_diff(tmp_path / "moments.safetensors")
    assert diff.pairings == PAIRINGS
    assert diff.texts["tuned"].tokens.shape[1] == 3  # the question that one model left open is no part of it
    own = (diff.pairing("on_policy")[1].question_means() - diff.pairing("on_policy")[0].question_means()).mean(0)
    assert latents["rise"].to_numpy() == pytest.approx(own.numpy())
    assert (tmp_path / "state" / STATE).exists()
    agreement = pd.read_parquet(tmp_path / "agreement.parquet")
    assert set(agreement["order"]) | set(agreement["other"]) == {
        "rise", "cosine", "attribution", "mean_difference", "effect", "auroc", "beta"
    }  # fmt: skip


def test_the_diff_of_a_crosscoder_has_its_own_columns(bench: Any, tmp_path: Path) -> None:
    """What the numbers are is tested where they are made; here, that the step takes a crosscoder and leaves out what it cannot say."""
    answered(tmp_path)
    bench.unfinished = None
    bench.dictionary = random_crosscoder()
    make_directions(bench, tmp_path, tmp_path)
    make_diff(bench, tmp_path, tmp_path, tmp_path)
    latents = pd.read_parquet(tmp_path / "latents.parquet")
    assert COLUMNS - set(latents.columns) == {"rise_base_text", "rise_tuned_text"}
    assert latents["relative_norm"].to_numpy() == pytest.approx(bench.dictionary.relative_norms().numpy())
    assert latents["rise"].to_numpy() == pytest.approx((latents["mean_tuned"] - latents["mean_base"]).to_numpy())
    assert latents["attribution"].abs().max() > 0
