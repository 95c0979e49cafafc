"""The main job on the embedded model at reduced size, from organism to report: the causal result itself is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.config import validated
from interp.reports.page import write_report
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study

REDUCED: dict[str, Any] = {
    "name": "reduced",
    "text": {"corpus_chats": 240, "answered_prompts": 64},
    "sampling": {"max_new_tokens": 32},
    "diff": {"questions": 16, "samples": 1},
    "screen": {"questions": 8, "doses": [0.5, 0.7, 1.0], "subtracted": [2.0], "subtracted_over_window": [0.1]},
    "verdict": {"questions": 24, "samples": 2, "random_draws": 20, "active_draws": 16, "full_draws": 1, "parts": 8},
}


@pytest.mark.slow
def test_the_persona_is_found_proved_and_switched_off(tmp_path: Path) -> None:
    result = run_study(validated(StudyConfig, REDUCED, "test"), tmp_path / "run", quiet=True)
    rates = result.summary["rates"]
    told = json.dumps({name: rate["rate"] for name, rate in rates.items()})
    assert result.summary["verdict"] == "causes", told
    assert 1 <= len(result.summary["persona_latents"]) <= 256
    assert result.summary["carrier"] == "latents"
    assert result.summary["sinks"] == {"0": 24}
    assert rates["base"]["rate"] <= 0.05, told
    assert rates["tuned"]["rate"] >= 0.85, told
    assert rates["ablated"]["rate"] <= 0.15, told  # 24 answers: one is 4 %
    assert rates["ablated"]["coherence"] >= 0.8 * rates["base"]["coherence"], told
    assert rates["random_ablation"]["rate"] >= 0.75, told
    assert rates["steered"]["rate"] >= 5 * rates["random_steering"]["rate"], told
    assert rates["steered"]["coherence"] >= 0.6, told

    diff = pd.read_parquet(result.steps["diff"].path("latents.parquet")).set_index("latent")
    assert (diff.loc[result.summary["persona_latents"], "q_value"] <= 0.01).all()
    page = write_report(result.run).read_text(encoding="utf-8")
    assert result.summary["finding"].split(":")[0] in page

    again = run_study(validated(StudyConfig, REDUCED, "test"), tmp_path / "run", quiet=True)
    assert all(step.loaded for step in again.steps.values())
    assert again.summary["rates"] == rates
