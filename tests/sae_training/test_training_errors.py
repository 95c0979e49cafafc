"""Trainings that cannot be: every failure is told with its place and its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.config import validated
from interp.core.errors import ConfigError, TrainingError
from sae_training.config import GatedConfig, TopKConfig, TrainConfig
from sae_training.feed import Block, MemorySource
from sae_training.trainer import train, train_all
from tests.helpers.small_trainings import KINDS, LATENTS, QUICK, STEPS, changed, everything
from tests.helpers.toy_features import HOOK, small_source

# Values that are lost


class Spoilt(MemorySource):
    """After so many readings, blocks hold a value that is not finite."""

    after, value = 5, float("nan")

    def block(self, index: int) -> Block:
        self.after -= 1
        blocks = super().block(index)
        if self.after < 0:
            blocks = {name: tensor.clone() for name, tensor in blocks.items()}
            for tensor in blocks.values():
                tensor[17, 0, 3] = self.value
        return blocks


def spoilt(after: int, value: float) -> Spoilt:
    source = Spoilt(dict(small_source().residuals), 100)
    vars(source)["fingerprint"] = small_source().fingerprint
    source.after, source.value = after, value
    return source


@pytest.mark.parametrize("outlier_factor", [None, 10.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_values_that_are_not_finite_are_told_with_step_position_and_checkpoint(
    kind: str, value: float, outlier_factor: float | None, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate({**KINDS[kind].model_dump(), "outlier_factor": outlier_factor})
    # Two blocks for the mean, a group of four, then the second group: two blocks, from row 400 of 600.
    with pytest.raises(TrainingError) as told:
        train(config, spoilt(6, value), tmp_path)
    message = str(told.value)
    assert "The batch holds residuals that are not finite. Capture them in float32" in message
    assert f"The last good checkpoint is {tmp_path}/checkpoints/step-000000004." in message
    found = [f"step {step} of {STEPS}" in message for step in (7, 8, 9, 10)]
    assert any(found)
    assert "at Position(passes=0, group=" in message


def test_a_sample_that_is_not_finite_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"The residuals hold values that are not finite\. Capture them in float32"):
        train(QUICK, spoilt(0, float("nan")), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learning_rate", [30.0, 1e30])
def test_a_loss_that_diverges_is_told_with_its_step(kind: str, learning_rate: float, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**KINDS[kind].model_dump(), "learning_rate": learning_rate, "checkpoint_every": 1})
    with pytest.raises(TrainingError) as told:
        train_all({"big": config}, small_source(), tmp_path)
    message = str(told.value)
    assert message.startswith("Training stopped in step ")
    assert f"of {STEPS} of big, at Position(passes=" in message
    assert "Training diverged: the unexplained share of variance is" in message
    assert "Lower learning_rate, or raise warmup." in message
    last = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert f"The last good checkpoint is {last}." in message
    assert f"step {int(last.name.removeprefix('step-')) + 1} of" in message


def test_a_loss_that_diverges_at_once_has_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"There is no checkpoint yet\.$"):
        train(changed(learning_rate=1e30), small_source(), tmp_path)
    assert everything(tmp_path) == {}


# Settings that do not fit


class Live:
    """Like a live source: it does not know its length."""

    hook_points, n_models, d_in, n_rows, background, fingerprint = (HOOK,), 1, 12, None, False, "live"

    def __init__(self, *lengths: int) -> None:
        self.lengths, self.n_blocks = lengths, len(lengths)

    def block(self, index: int) -> Block:
        return {HOOK: small_source().block(index)[HOOK][: self.lengths[index]]}


UNFIT: list[tuple[dict[str, Any], Any, str]] = [
    ({"architecture": TopKConfig(n_latents=8, k=9)}, small_source(), r"k is 9, more than the 8 latents"),
    ({"architecture": TopKConfig(n_latents=601, k=9)}, small_source(), r"600 tokens cannot train 601 latents\. Give more text, or lower"),
    ({}, MemorySource({HOOK: torch.ones(600, 1, 12)}), r"The residuals are the same at every token.*Check the text and the hook point"),
    ({}, MemorySource({HOOK: torch.ones(0, 1, 12)}), r"0 tokens cannot train 64 latents"),
    ({"tokens": 600}, Live(0, 0), r"There is nothing to train on: the source of residuals is empty\. Give more text"),
    ({"tokens": 600}, Live(), r"There is nothing to train on: the source of residuals is empty\. Give more text"),
    ({"tokens": 600}, Live(20, 0, 30), r"50 rows of residuals cannot fill a batch of 60"),
    ({}, Live(100, 100), r"does not know its length before it is read\. Give `tokens`"),
    ({"hook_point": "blocks.9"}, small_source(), rf"The feed has no hook point 'blocks\.9'\. Set hook_point to one of {HOOK}"),
    ({}, small_source(hook_points=("a", "b")), r"The feed has several hook points\. Set hook_point to one of a, b"),
    ({"reads": "pair"}, small_source(), r"reads is 'pair', which needs residuals of two models, and the feed has 1\. Capture a pair"),
    ({"reads": "difference"}, small_source(), r"reads is 'difference', which needs residuals of two models"),
    (
        {"architecture": TopKConfig(n_latents=LATENTS, k=3, tuned_only=2)},
        small_source(n_models=2),
        r"base_only and tuned_only need residuals of two models",
    ),
    ({"architecture": GatedConfig(n_latents=LATENTS), "reads": "pair"}, small_source(n_models=2), r"A gated dictionary reads one model"),
]


@pytest.mark.parametrize(("fields", "source", "message"), UNFIT)
def test_what_does_not_fit_is_told_before_anything_is_written(fields: dict[str, Any], source: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message):
        train(changed(**fields), source, tmp_path / "a")
    assert everything(tmp_path) == {}


def test_a_feed_of_unknown_length_is_trained_on_for_as_many_tokens_as_asked(tmp_path: Path) -> None:
    trained = train(changed(tokens=600, passes=None), Live(100, 40, 0, 60), tmp_path)
    assert (trained.steps, trained.tokens) == (10, 600)


@pytest.mark.parametrize("field", ["batch_tokens", "passes", "tokens", "checkpoint_every"])
def test_dictionaries_that_disagree_are_refused(field: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"must agree in {field}; 'b' differs\. Train it by itself"):
        train_all({"a": QUICK, "b": changed(**{field: 50})}, small_source(), tmp_path)


def test_names_and_models_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"No dictionary to train\. Give at least one config"):
        train_all({}, small_source(), tmp_path)
    with pytest.raises(TrainingError, match=r"'checkpoints' cannot be the name of a dictionary"):
        train_all({"checkpoints": QUICK}, small_source(), tmp_path)
    with pytest.raises(TrainingError, match=r"2 models are named, and the feed has residuals of 1\. Name each one"):
        train(QUICK, small_source(), tmp_path, models=["a", "b"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": {"kind": "sparse"}},
            r"architecture: .*'sparse'.*'topk', 'batchtopk', 'matryoshka', 'jumprelu', 'gated', 'standard'",
        ),
        ({"architecture": {"kind": "topk", "k": 0}}, r"architecture\.topk\.k: .*greater than or equal to 1"),
        ({"architecture": {"kind": "gated", "k": 3}}, r"unknown field 'architecture\.gated\.k'"),
        ({"passes": None}, r"give passes or tokens, or training never ends"),
        ({"reads": "both"}, r"reads: .*'each', 'pair' or 'difference'"),
        ({"outlier_factor": 1.0}, r"outlier_factor: .*greater than 1"),
        ({"learning_rate": 0}, r"learning_rate: .*greater than 0"),
        ({"warmup": 1.5}, r"warmup: .*less than or equal to 1"),
    ],
)
def test_settings_that_there_are_not_are_config_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(TrainConfig, values, "here.yaml")


def test_configs_survive_json() -> None:
    for config in KINDS.values():
        assert validated(TrainConfig, json.loads(config.model_dump_json()), "here") == config
