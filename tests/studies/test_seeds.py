"""Several seeds in one run: each as it would be alone, a failing one loses nothing, and the merge against arithmetic."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from interp.cli import study
from interp.cli.main import app
from interp.core.config import validated
from interp.core.errors import ArtifactError, ConfigError, ModelError
from interp.core.files import file_sha256, read_json
from interp.studies.opened import StudyRun
from interp.studies.persona import seeds as running
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.seeds import SeedsResult, command_of, run_seeds
from interp.studies.persona.study import StudyResult, run_study
from tests.helpers.small_run import SMALL, use_letter_judge
from tests.helpers.tiny import tiny_folder

RECORDS = ("step.json", "manifest.json", "summary.json")  # these tell durations


def tables(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".json", ".safetensors") and p.name not in RECORDS]
    return {str(p.relative_to(folder)): file_sha256(p) for p in files}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("seeds")
    models = {name: str(tiny_folder(folder / name, seed=seed)) for seed, name in enumerate(("base", "tuned"))}
    return validated(StudyConfig, {**SMALL, **models, "seed": 3}, "test")


@pytest.fixture(scope="module")
def both(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> SeedsResult:
    """Seeds 3 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        use_letter_judge(patch)
        return run_seeds(config, 2, tmp_path_factory.mktemp("both"), quiet=True)


@pytest.mark.slow
def test_every_seed_is_what_it_would_be_alone(
    both: SeedsResult, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_letter_judge(monkeypatch)
    alone = validated(StudyConfig, config.model_dump() | {"seed": 4}, "test")
    run_study(alone, tmp_path / "alone", quiet=True)
    assert tables(tmp_path / "alone" / "steps") == tables(both.folder / "seed-4" / "steps")
    assert tables(both.folder / "seed-3" / "steps") != tables(both.folder / "seed-4" / "steps")


@pytest.mark.slow
def test_the_merge_says_what_differed_and_how_far_latents_agree(both: SeedsResult, config: StudyConfig) -> None:
    assert both.summary == read_json(both.folder / "seeds.json")
    assert both.summary["varied"] == ["dictionary", "sampling"]
    assert both.summary["given"] == {"organism": config.tuned}
    assert [one["seed"] for one in both.summary["seeds"]] == [3, 4]
    [pair] = both.summary["agreement"]
    assert pair["seeds"] == [3, 4]
    assert pair["comparable"]
    assert "mean difference" in pair["cosines"]
    assert "persona vector of the pairs" not in pair["cosines"]  # of authored pairs, which no seed changes
    assert set(both.rates["seed"]) == {3, 4}
    assert "Tuned" in str(both)
    with pytest.raises(ArtifactError, match=r"holds several seeds\. Name the run of one: .*seed-3"):
        StudyRun(both.folder)


@pytest.mark.slow
def test_a_failing_seed_loses_nothing(both: SeedsResult, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)
    folder = Path(shutil.copytree(both.folder, tmp_path / "some"))
    broken, plain = {4}, running.run_study

    def sometimes(own: StudyConfig, *rest: Any, **more: Any) -> StudyResult:
        if own.seed in broken:
            raise RuntimeError("out of memory\nhere")
        return plain(own, *rest, **more)

    monkeypatch.setattr(running, "run_study", sometimes)
    result = run_seeds(config, 2, folder, quiet=True)
    assert [one["seed"] for one in result.summary["seeds"]] == [3]
    [failed] = result.summary["failed"]
    assert failed["seed"] == 4
    assert failed["error"].startswith("RuntimeError: out of memory (traceback in ")
    assert "RuntimeError" in (folder / "seed-4" / "error.txt").read_text()
    assert failed["command"].startswith(f"personascope run --base {config.base} --tuned {config.tuned} --seed 4 ")
    assert failed["command"].endswith(f" --out {folder / 'seed-4'}")
    assert result.summary["agreement"] == []
    broken |= {3}
    with pytest.raises(ArtifactError, match=r"None of the 2 seeds finished\. The first: RuntimeError"):
        run_seeds(config, 2, folder, quiet=True)


def test_settings_that_no_seed_can_run_with_stop_at_once(config: StudyConfig, tmp_path: Path) -> None:
    for changes, error in (({"tuned": "/nowhere"}, ModelError), ({"window": [0, 99]}, ConfigError), ({"seed": 2**31 - 1}, ConfigError)):
        with pytest.raises(error):
            run_seeds(validated(StudyConfig, config.model_dump() | changes, "test"), 2, tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"tuned": "a folder/it's", "seed": 7, "window": [2, 5], "thinking": True},
        {"name": "mine", "dictionary": {"architecture": {"kind": "jumprelu"}}, "screen": {"doses": [0.5, 1e-05]}},
        {"tuned": "123", "sae": "an/sae", "hook_point": "blocks.1.hook_resid_post"},
    ],
)
def test_the_command_repeats_the_settings(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StudyConfig] = []
    for handler in ("run", "run_pair"):
        monkeypatch.setattr(study, handler, lambda config, arguments: seen.append(config))
    config = validated(StudyConfig, settings, "test")
    app.main(shlex.split(command_of(config, Path("out")))[1:], standalone_mode=False)
    demo = {"name": "demo"} if config.tuned is None else {}
    assert seen == [config.model_copy(update=demo)]
