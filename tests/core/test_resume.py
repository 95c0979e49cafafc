"""Killed with SIGKILL in every step and run again, a study ends with the same bytes as one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from interp.core.files import file_sha256
from interp.traits import DEFAULT_TRAIT
from interp.traits import __file__ as traits_file
from tests.helpers.tiny import tiny_folder

STEPS = ("texts", "residuals", "dictionary", "answers", "directions", "diff", "fit", "persona_vectors", "screen", "evidence", "verdict",
         "after", "user_tokens", "cards", "judges")  # fmt: skip
TABLES = ("parquet", "json", "safetensors")
RECORDS = ("step.json", "manifest.json", "summary.json")  # these tell durations

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from interp.core.steps import RunDirectory
from interp.core.config import validated
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study

settings, folder, victim = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
plain = RunDirectory.step

def step(self, name, settings, inputs, make):
    def make_and_die(folder):
        make(folder)
        if name == victim:
            os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, name, settings, inputs, make_and_die)

RunDirectory.step = step
run_study(validated(StudyConfig, settings, "test"), folder, quiet=True)
"""


def run(settings: dict[str, object], folder: Path, victim: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(settings), str(folder), victim]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=False)


def tables(folder: Path) -> dict[str, str]:
    found = [p for p in sorted(folder.rglob("*")) if p.suffix[1:] in TABLES and p.name not in RECORDS]
    return {str(p.relative_to(folder)): file_sha256(p) for p in found}


def intelligible_trait(folder: Path) -> Path:
    """The default trait with no judge of coherence, by which no answer of a random model would pass."""
    shutil.copytree(Path(traits_file).parent / DEFAULT_TRAIT, folder)
    settings = yaml.safe_load((folder / "trait.yaml").read_text())
    (folder / "trait.yaml").write_text(yaml.safe_dump(settings | {"coherence": {"spec": "none"}}))
    return folder


@pytest.mark.slow
def test_killed_in_every_step_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    base, tuned = tiny_folder(tmp_path / "base", seed=0), tiny_folder(tmp_path / "tuned", seed=1)
    settings: dict[str, object] = {
        "trait": str(intelligible_trait(tmp_path / "trait")),
        "base": str(base),
        "tuned": str(tuned),
        "text": {"corpus_chats": 40, "answered_prompts": 8, "answer_tokens": 8},
        "dictionary": {"architecture": {"kind": "topk", "n_latents": 64, "k": 8}, "batch_tokens": 256, "passes": 2},
        "sampling": {"max_new_tokens": 8},
        "diff": {"questions": 12, "samples": 1, "largest_q": 1.0},
        "screen": {"questions": 4, "doses": [0.5], "largest_set": 4},
        "verdict": {"questions": 6, "samples": 1, "random_draws": 19, "active_draws": 2, "full_draws": 1, "parts": 6},
    }
    whole = run(settings, tmp_path / "whole", victim="")
    assert whole.returncode == 0, whole.stderr
    for victim in STEPS:
        killed = run(settings, tmp_path / "killed", victim)
        assert killed.returncode == -signal.SIGKILL, f"{victim}: {killed.stderr}"
        assert not list((tmp_path / "killed" / "steps").glob(f"{victim}-*[!l]")), victim  # nothing but the .partial
    assert run(settings, tmp_path / "killed", victim="").returncode == 0
    expected = tables(tmp_path / "whole" / "steps")
    assert {Path(name).parts[0].split("-")[0] for name in expected} == set(STEPS)
    assert tables(tmp_path / "killed" / "steps") == expected
    assert not list((tmp_path / "killed" / "steps").glob("*.partial"))
