"""Training: the rows it reads, what it writes and tells, its schedule."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import TrainingError
from interp.dictionaries.load import load_dictionary
from sae_training.config import TopKConfig, TrainConfig, learning_rate_share
from sae_training.distributed import World
from sae_training.feed import MemorySource
from sae_training.metrics import Tracker
from sae_training.normalise import calibrate, read
from sae_training.plan import measure
from sae_training.results import Trained
from sae_training.sae_trainer import SAETrainer
from sae_training.trainer import train, train_all
from tests.helpers.small_trainings import KINDS, QUICK, STEPS, changed, everything, several
from tests.helpers.toy_features import HOOK, small_source, sums

# Rows


def test_reads_gives_the_rows_it_says() -> None:
    residuals = torch.randn(9, 2, 5)
    each, pair, difference = (read(residuals, name) for name in ("each", "pair", "difference"))
    assert torch.equal(each, torch.stack([residuals[token, model] for token in range(9) for model in range(2)])[:, None])
    assert torch.equal(pair, residuals)
    assert torch.equal(difference, (residuals[:, 1] - residuals[:, 0])[:, None])
    halves = residuals.bfloat16()
    assert torch.equal(read(halves, "difference")[:, 0], halves[:, 1].float() - halves[:, 0].float())


@pytest.mark.parametrize(("reads", "n_models"), [("each", 1), ("each", 2), ("pair", 2), ("difference", 2)])
@pytest.mark.parametrize("outlier_factor", [None, 1.5])
def test_rows_have_mean_zero_and_one_scale_and_outliers_are_left_out_exactly(
    reads: str, n_models: int, outlier_factor: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    residuals = torch.randn(501, n_models, 7, generator=generator) * torch.rand(501, n_models, 1, generator=generator).exp() + 0.3
    residuals[::50] *= 20
    normaliser = calibrate(residuals, changed(reads=reads, outlier_factor=outlier_factor))
    rows = read(residuals, reads)
    norms = rows.norm(dim=2)
    kept = torch.ones(len(rows), dtype=torch.bool)
    if outlier_factor:
        kept = (norms <= 1.5 * norms.flatten().sort().values[(norms.numel() - 1) // 2]).all(1)
        assert 0 < int((~kept).sum()) < 400
        assert not kept[:: 50 * (len(rows) // 501)].any()
    mean = rows[kept].mean(0)
    scale = math.sqrt(7 / (rows[kept] - mean).square().sum(2).mean())
    torch.testing.assert_close(normaliser.mean, mean)
    assert normaliser.scale == pytest.approx(scale)
    normalised = normaliser(residuals)
    torch.testing.assert_close(normalised, ((rows[kept] - mean) * scale).flatten(1))
    assert float(normalised.square().mean()) == pytest.approx(1, rel=1e-4)
    assert torch.equal(normaliser(residuals.bfloat16()), normaliser(residuals.bfloat16().float()))


def test_outliers_are_counted_and_never_seen(tmp_path: Path) -> None:
    x = small_source().residuals[HOOK].clone()
    x[::60] *= 1000  # ten of them
    config = changed(outlier_factor=10.0, passes=3, calibration_tokens=600, log_every=1)
    trained = train(config, MemorySource({HOOK: x}, 100), tmp_path)
    metrics = pd.read_parquet(trained.folder / "metrics.parquet")
    assert metrics["outliers"].sum() == 3 * 10
    assert pd.read_parquet(trained.folder / "latents.parquet")["fired"].sum() > 0
    with_them = train(changed(passes=3, calibration_tokens=600), MemorySource({HOOK: x}, 100), tmp_path / "b")
    assert trained.fvu > 0.2  # not yet learnt
    assert pd.read_parquet(with_them.folder / "metrics.parquet")["outliers"].sum() == 0
    mean = load_dictionary(trained.dictionary).b_dec
    assert float((mean - small_source().residuals[HOOK].mean(0)[0]).norm()) < 2  # ten outliers pull it by much more
    assert float((load_dictionary(with_them.dictionary).b_dec - x.mean(0)[0]).norm()) < float(x.mean(0).norm()) / 4


def test_a_batch_of_outliers_only_is_told(tmp_path: Path) -> None:
    x = small_source().residuals[HOOK].clone()
    x[::60] *= 1000
    config = changed(outlier_factor=10.0, batch_tokens=1, passes=1)
    with pytest.raises(TrainingError, match=r"step \d+ of 600, at Position.*All tokens of the batch are outliers\. Raise outlier_factor"):
        train(config, MemorySource({HOOK: x}, 100), tmp_path)


def test_the_sample_is_of_all_blocks_where_it_is_as_large() -> None:
    source = small_source(tokens=650)
    from sae_training.plan import make_plan

    plan = make_plan({"a": changed(calibration_tokens=10_000), "b": changed(calibration_tokens=50)}, source, 0, 4, None)
    inputs = measure(plan, source, 3)
    rows = source.residuals[HOOK]
    torch.testing.assert_close(inputs["a"].mean, rows.mean(0))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(inputs["b"].mean, source.block(int(order[0]))[HOOK][:50].mean(0))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_shift_and_scale_of_the_residuals_do_not_matter(scale: float, tmp_path: Path) -> None:
    x = small_source().residuals[HOOK]
    plain = train(QUICK, MemorySource({HOOK: x}), tmp_path / "a")
    moved = train(QUICK, MemorySource({HOOK: x * scale + scale}), tmp_path / "b")
    assert moved.fvu == pytest.approx(plain.fvu, rel=1e-3)
    assert moved.l0 == pytest.approx(plain.l0, rel=1e-3)


def test_the_residuals_are_left_as_they_are(tmp_path: Path) -> None:
    source = small_source(n_models=2)
    before = source.residuals[HOOK].clone()
    for reads in ("each", "pair", "difference"):
        train(changed(reads=reads, outlier_factor=2.0), source, tmp_path / reads)
    assert torch.equal(source.residuals[HOOK], before)


# What comes out


@pytest.mark.parametrize("decay", [1 / 3, 0.0])
def test_the_metrics_tell_what_the_saved_dictionary_does(decay: float, tmp_path: Path) -> None:
    x, _ = sums(4000, 40, 16, 3, noise=0.05)
    architecture = TopKConfig(n_latents=96, k=3, aux_k=0)
    config = TrainConfig(architecture=architecture, batch_tokens=100, passes=12, learning_rate=3e-3, decay=decay)
    trained = train(config, MemorySource({HOOK: x}), tmp_path)
    metrics = pd.read_parquet(trained.folder / "metrics.parquet")
    assert list(metrics["step"]) == list(range(1, 481))
    assert (metrics["l0"] <= 3).all()
    assert metrics["fvu"].iloc[0] > 0.4
    assert trained.fvu == pytest.approx(metrics["fvu"].tail(48).mean())
    assert trained.l0 == pytest.approx(metrics["l0"].tail(48).mean())
    torch.testing.assert_close(torch.tensor(metrics["loss_reconstruction"]), torch.tensor(metrics["fvu"]), rtol=0.25, atol=0)
    dictionary = load_dictionary(trained.dictionary)
    codes = dictionary.encode(x[:, 0])
    fvu = (dictionary.decode(codes) - x[:, 0]).square().sum() / (x - x.mean(0)).square().sum()
    assert float(fvu) == pytest.approx(trained.fvu, rel=0.1)
    counts = codes.counts()
    latents = pd.read_parquet(trained.folder / "latents.parquet")
    assert list(latents["latent"]) == list(range(96))
    assert trained.dead_share == float((latents["fired"] == 0).mean())
    assert trained.dead_share == pytest.approx(float((counts == 0).float().mean()), abs=0.05)
    torch.testing.assert_close(torch.tensor(latents["rate"]).float(), counts / 4000, atol=0.02, rtol=0)
    summary = json.loads((trained.folder / "training.json").read_text())
    assert summary["fvu"] == trained.fvu
    assert summary["made_by"]["configs"][""]["learning_rate"] == 3e-3
    config_of_it = json.loads((trained.dictionary / "cfg.json").read_text())
    assert config_of_it["metadata"]["made"] == {"fvu": trained.fvu, "tokens": 48_000}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_even_the_shortest_training_says_which_latents_fire(steps: int, tmp_path: Path) -> None:
    trained = train(changed(tokens=60 * steps), small_source(), tmp_path)
    assert trained.steps == steps
    assert trained.dead_share < 0.5
    assert pd.read_parquet(trained.folder / "latents.parquet")["rate"].sum() == pytest.approx(3, rel=0.05)


def test_what_is_read_decides_what_is_saved(tmp_path: Path) -> None:
    source = small_source(n_models=2)
    saved = {}
    for reads in ("each", "pair", "difference"):
        saved[reads] = train(changed(reads=reads), source, tmp_path / reads, models=["base", "tuned"]).dictionary
    assert load_dictionary(saved["pair"]).models == ("base", "tuned")
    assert [(load_dictionary(saved[reads]).reads, load_dictionary(saved[reads]).source) for reads in ("each", "difference")] == [
        ("", "base, tuned"),
        ("difference", "base, tuned"),
    ]
    assert {load_dictionary(saved["each"]).hook_point, load_dictionary(saved["pair"]).hook_point} == {HOOK}


def test_the_same_seed_gives_the_same_bytes_whatever_else_was_drawn(tmp_path: Path) -> None:
    folders = {}
    for name, seed, other in (("a", 7, 1), ("b", 7, 2), ("c", 8, 1)):
        torch.manual_seed(other)
        torch.rand(other)
        folders[name] = train(QUICK, small_source(), tmp_path / name, seed=seed).folder
    assert everything(folders["a"]) == everything(folders["b"])
    weights = [everything(folders[name])["dictionary/sae_weights.safetensors"] for name in ("a", "c")]
    assert weights[0] != weights[1]


def test_state_and_restore_hold_all_that_a_step_depends_on() -> None:
    source = small_source()
    normaliser = calibrate(source.residuals[HOOK], KINDS["batchtopk"])
    ours, restored = (SAETrainer(KINDS["batchtopk"], normaliser, (1, 12), 50, 60, seed, torch.device("cpu")) for seed in (0, 1))
    for step in range(5):
        ours.step(source.residuals[HOOK][60 * step : 60 * step + 60], step, World())
    restored.restore({name: tensor.clone() for name, tensor in ours.state().items()})
    assert ours.state().keys() == restored.state().keys()
    for trainer in (ours, restored):
        trainer.step(source.residuals[HOOK][:60], 40, World())
    assert all(torch.equal(tensor, restored.state()[name]) for name, tensor in ours.state().items())


# Learning rate


@settings(deadline=None, derandomize=True)
@given(steps=st.integers(1, 3000), warmup=st.floats(0, 1), decay=st.floats(0, 1))
def test_the_learning_rate_rises_stays_and_falls(steps: int, warmup: float, decay: float) -> None:
    shares = [learning_rate_share(step, steps, warmup, decay) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    peak = shares.index(max(shares))
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    flat = range(math.ceil(warmup * steps), math.floor((1 - decay) * steps))
    assert all(shares[step] == 1 for step in flat)
    if decay > 0:
        assert shares[-1] <= 1 / (steps * decay) + 1e-9
    if warmup > 0 and steps > 1:
        assert shares[0] <= 1 / max(1, round(steps * warmup)) + 1e-9


def test_the_schedule_is_what_the_optimizer_gets(tmp_path: Path) -> None:
    trained = train(changed(warmup=0.2, decay=0.4, learning_rate=0.01), small_source(), tmp_path)
    rates = pd.read_parquet(trained.folder / "metrics.parquet")["learning_rate"]
    assert list(rates) == pytest.approx(
        [0.01 * share for share in (1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    )


def test_a_sparsity_penalty_rises_to_its_full_weight(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**KINDS["standard"].model_dump(), "sparsity_warmup": 0.6, "learning_rate": 1e-9})
    trained = train(config, small_source(), tmp_path)  # nothing moves, so that the loss is the ramp
    losses = pd.read_parquet(trained.folder / "metrics.parquet")["loss_sparsity"]
    ramp = [min(1.0, (step + 1) / 9) for step in range(STEPS)]
    assert [loss / losses.iloc[-1] for loss in losses] == pytest.approx(ramp, rel=0.15)


# Callbacks


class Listener:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, float]]] = {}
        self.ends: dict[str, dict[str, Any]] = {}

    def row(self, dictionary: str, metrics: Mapping[str, float]) -> None:
        self.rows.setdefault(dictionary, []).append(dict(metrics))

    def end(self, dictionary: str, summary: Mapping[str, Any]) -> None:
        self.ends[dictionary] = dict(summary)


def test_callbacks_hear_every_row_and_the_end(tmp_path: Path) -> None:
    source, listeners = small_source(n_models=2, hook_points=("first", "second")), [Listener(), Listener()]
    trained = train_all(several(), source, tmp_path, callbacks=listeners)
    for listener in listeners:
        assert listener.rows.keys() == listener.ends.keys() == several().keys()
        for name, rows in listener.rows.items():
            table = pd.read_parquet(tmp_path / name / "metrics.parquet")
            pd.testing.assert_frame_equal(pd.DataFrame(rows), table, check_like=True)
            assert Trained(trained[name].folder, **listener.ends[name]) == trained[name]
    assert [row["step"] for row in listeners[0].rows["first/pair"]] == [4, 8, 12, 15]  # log_every 4, and the last
    assert [row["step"] for row in listeners[0].rows["second"]] == list(range(1, STEPS + 1))


class FakeTracker(types.ModuleType):
    """As much of wandb's interface as is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int | None]] = []

    def init(self, **options: Any) -> None:
        self.begun = options

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.logged.append((values, step))


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_gets_all_metrics(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, package, fake)
    trained = train_all({"a": QUICK}, small_source(), tmp_path, callbacks=[Tracker(package, "project", name="run")])
    assert fake.begun == {"project": "project", "name": "run"}
    table = pd.read_parquet(tmp_path / "a" / "metrics.parquet")
    assert [step for _, step in fake.logged] == [*range(1, STEPS + 1), None]
    for (values, _), (_, row) in zip(fake.logged, table.iterrows(), strict=False):
        assert values == {f"a/{name}": value for name, value in row.items() if name != "step" and not math.isnan(value)}
    final = trained["a"]
    assert fake.logged[-1][0] == {f"a/final_{name}": getattr(final, name) for name in ("fvu", "l0", "dead_share", "steps", "tokens")}
    train(QUICK, small_source(), tmp_path / "b", callbacks=[Tracker(package, "project")])
    assert "fvu" in fake.logged[-2][0]  # one dictionary without a name has no prefix


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_says_how_to(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrainingError, match=rf"{package} is not installed\. Install it: pip install"):
        Tracker(package, "project")


def test_a_tracker_that_there_is_not() -> None:
    with pytest.raises(TrainingError, match=r"There is no tracker 'pandas'\. Choose wandb or trackio"):
        Tracker("pandas", "project")
