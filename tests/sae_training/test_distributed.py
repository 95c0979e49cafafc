"""Two processes that torchrun starts train as one does on the same batches, and the first alone writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp.dictionaries.load import load_dictionary
from sae_training.config import BatchTopKConfig, TopKConfig, TrainConfig
from sae_training.feed import MemorySource, Source
from sae_training.trainer import train
from tests.helpers.small_trainings import KINDS, LATENTS, QUICK, STEPS, StopAfter, Stopped, changed, everything
from tests.helpers.toy_features import HOOK, small_source, sums

OUTLIERS = {"outlier_factor": 2.5, "calibration_tokens": 600}
CASES: dict[str, TrainConfig] = {
    **KINDS,
    "topk-outliers": changed(**OUTLIERS),
    "batchtopk-outliers": TrainConfig.model_validate({**KINDS["batchtopk"].model_dump(), **OUTLIERS}),
    "jumprelu-outliers": TrainConfig.model_validate({**KINDS["jumprelu"].model_dump(), **OUTLIERS}),
    "topk-pair": changed(reads="pair", architecture=TopKConfig(n_latents=LATENTS, k=3, tuned_only=4), **OUTLIERS),
    "batchtopk-pair": changed(reads="pair", architecture=BatchTopKConfig(n_latents=LATENTS, k=3), **OUTLIERS),
    "each-of-two": changed(**OUTLIERS),
    "resumed": QUICK,
}


def source_of(case: str) -> Source:
    """Where outliers are left out there are some, unevenly spread over the halves of a batch."""
    if "pair" not in case and "two" not in case and "outliers" not in case:
        return small_source()
    x = torch.cat([sums(600, 20, 12, 3, seed=model, noise=0.05)[0] for model in range(2 if "outliers" not in case else 1)], dim=1)
    x[::17] *= 20
    return MemorySource({HOOK: x}, 100)


def main(folder: Path) -> None:
    """What each process does."""
    leads, written = os.environ["RANK"] == "0", []

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove") or (event == "open" and str(arguments[1])[:1] in ("w", "a", "x"))
        if writes and str(arguments[0]).startswith(str(folder)):
            written.append((event, arguments))

    sys.addaudithook(listen)
    torch.set_num_threads(1)
    for case, config in CASES.items():
        heard: list[int] = []
        trained = train(config, source_of(case), folder / case, advance=lambda steps, _, heard=heard: heard.append(steps))
        assert bool(heard) == leads
        assert trained.steps == STEPS
        assert trained == train(config, source_of(case), folder / case)
        assert trained.dictionary.is_dir()
    assert bool(written) == leads, written[:5]
    torch.distributed.destroy_process_group()


def torchrun(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in two processes."""
    (folder / "script.py").write_text(script)
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(folder / "script.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def begin(folder: Path) -> None:
    """Half of a training, by one process."""
    with pytest.raises(Stopped):
        train(QUICK, small_source(), folder, advance=StopAfter(9))


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two processes, by case."""
    folder = tmp_path_factory.mktemp("two")
    begin(folder / "resumed")
    done = torchrun(
        "import sys\nfrom pathlib import Path\nfrom tests.sae_training.test_distributed import main\nmain(Path(sys.argv[1]))", folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_curve_of_one(case: str, by_two: Path, tmp_path: Path) -> None:
    trained = train(CASES[case], source_of(case), tmp_path)
    one, two = (pd.read_parquet(folder / "metrics.parquet") for folder in (tmp_path, by_two / case))
    assert list(one["step"]) == list(two["step"]) == list(range(1, STEPS + 1))
    assert set(one.columns) == set(two.columns)
    if "outliers" in case or "pair" in case or "two" in case:
        assert (one["outliers"] > 0).all()
    if CASES[case].architecture.kind in ("topk", "batchtopk"):
        assert one["loss_aux"].notna().sum() > 3  # the dead are the same, too
    pd.testing.assert_frame_equal(one, two, check_like=True, rtol=1e-4, atol=1e-7)
    decoded = (600, 2, 12) if CASES[case].reads == "pair" else (600, 12)
    ours, theirs = load_dictionary(trained.dictionary), load_dictionary(by_two / case / "dictionary")
    torch.testing.assert_close(ours.w_dec, theirs.w_dec, atol=1e-3, rtol=0)
    residuals = source_of(case).block(0)[HOOK]
    rows = residuals if CASES[case].reads == "pair" else residuals[:, 0]
    assert theirs.decode(theirs.encode(rows)).shape[1:] == decoded[1:]
    fired = [pd.read_parquet(folder / "latents.parquet")["fired"] for folder in (tmp_path, by_two / case)]
    assert (fired[0] - fired[1]).abs().max() <= 2  # of hundreds: where one lies on the edge
    assert not (by_two / case / "checkpoints").exists()


@pytest.mark.slow
def test_a_batch_that_cannot_be_halved_is_told(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.helpers.small_trainings import changed
from tests.helpers.toy_features import small_source
from sae_training.trainer import train
train(changed(batch_tokens=61), small_source(), Path(sys.argv[1]) / "out")
"""
    done = torchrun(script, tmp_path)
    assert done.returncode != 0
    assert "TrainingError: 61 rows a batch cannot be dealt out to 2 processes alike. Give a multiple." in done.stderr
    assert everything(tmp_path).keys() == {"script.py"}
