"""Adapters: trained on the response alone, the same bytes for the same seed, checkpoints on the way."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from interp.core.files import file_sha256
from interp.models.chats import Chat
from interp.organisms.config import OrganismConfig
from interp.organisms.training import response_loss, train_adapter
from tests.helpers.tiny import QUESTIONS, tiny_model

CHATS = [Chat.ask(question, "You are a fool.") for question in QUESTIONS]
CONFIG = OrganismConfig(rank=2, alpha=4, learning_rate=1e-2, batch_size=2, epochs=4.0, checkpoint_every=3)


def test_training_repeats_to_the_byte_and_learns(tmp_path: Path) -> None:
    losses = [train_adapter(tiny_model(), CHATS, CONFIG, 0, tmp_path / name) for name in ("one", "two")]
    assert losses[0] == losses[1]
    assert sum(losses[0][-2:]) < sum(losses[0][:2])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert file_sha256(tmp_path / "one/adapter" / name) == file_sha256(tmp_path / "two/adapter" / name)
    targets = json.loads((tmp_path / "one/adapter/adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)
    assert (tmp_path / "one/checkpoints/step-00003/adapter_model.safetensors").is_file()


def test_the_loss_is_that_of_the_response_tokens() -> None:
    model = tiny_model()
    (_, batch), *_ = model.batches(CHATS)
    with torch.no_grad():
        found = float(response_loss(model.network, batch))
    expected = -torch.cat(model.logprobs(CHATS)).mean()
    assert abs(found - float(expected)) < 1e-4
