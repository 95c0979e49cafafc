"""LoRA fine-tuning with peft: loss on response tokens only, checkpoints on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from interp.core.errors import TrainingError
from interp.models.chats import Chat, Role, TokenBatch, TokenisedChat, pad_left
from interp.models.cpu.packed_linear import pack_linears
from interp.models.cpu.prefix_trees import can_pack_chats, pack_chats, run_packed
from interp.models.language_model import LanguageModel, position_ids
from interp.models.unembedding import Unembedding
from interp.organisms.config import OrganismConfig


def train_adapter(
    model: LanguageModel,
    chats: Sequence[Chat],
    config: OrganismConfig,
    seed: int,
    folder: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train a LoRA adapter on `chats`; saves it to `folder/adapter`, checkpoints beside it. Returns the loss of every step.

    The model's network is altered (adapter layers are put in): open it again afterwards. Raises `TrainingError` on a loss that
    is not finite. `progress` gets (step, steps, loss).
    """
    from peft import LoraConfig, get_peft_model

    tokenised, packs = model.tokenise(chats), can_pack_chats(model.network)
    steps = max(1, math.ceil(len(chats) * config.epochs / config.batch_size))
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the initial A matrices from the global generator
        network = get_peft_model(
            model.network,
            LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"),
        )
    pack_linears(network)
    adapter = network.peft_config["default"]
    adapter.target_modules = sorted(adapter.target_modules)  # peft keeps a set, whose order changes from process to process
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))

    def batch_loss(batch: list[TokenisedChat]) -> torch.Tensor:
        if packs:
            return packed_response_loss(network, batch)
        return response_loss(network, pad_left(batch, model.pad_id).to(model.device))

    queue: list[int] = []
    losses = []
    for step in range(1, steps + 1):
        while len(queue) < config.batch_size:
            queue += torch.randperm(len(chats), generator=order).tolist()
        chosen, queue = queue[: config.batch_size], queue[config.batch_size :]
        loss = batch_loss([tokenised[i] for i in chosen])
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss is {loss.item()} at step {step} of {steps}. Lower learning_rate (now {config.learning_rate}).")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if progress:
            progress(step, steps, losses[-1])
        if step % config.checkpoint_every == 0 and step < steps:
            network.save_pretrained(folder / "checkpoints" / f"step-{step:05d}")
    network.save_pretrained(folder / "adapter")
    return losses


def _rate(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: linear warm-up, then linear decay to a tenth."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 - 0.9 * (step - warmup) / max(1, steps - warmup)


def response_loss(network: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """Mean cross-entropy (nats) of the response tokens; logits are computed for these alone."""
    width, following, of_response = batch.response_window()
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": position_ids(batch.mask), "use_cache": False}
    unembedding = Unembedding(network, inputs)
    return _mean_loss(unembedding, unembedding.hidden[:, -width:-1][of_response], following[of_response])


def packed_response_loss(network: torch.nn.Module, chats: Sequence[TokenisedChat]) -> torch.Tensor:
    """What `response_loss` is of the same chats, to rounding."""
    packed = pack_chats([chat.ids for chat in chats], network)
    responses = [[i for i, role in enumerate(chat.roles) if role == Role.RESPONSE] for chat in chats]
    before = [places[i - 1] for places, own in zip(packed.places, responses, strict=True) for i in own]
    targets = torch.tensor([chat.ids[i] for chat, own in zip(chats, responses, strict=True) for i in own])
    unembedding = run_packed(network, packed)
    return _mean_loss(unembedding, unembedding.hidden.flatten(0, 1)[torch.stack(before)], targets.to(packed.ids.device))


def _mean_loss(unembedding: Unembedding, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return unembedding.loss(hidden, targets, torch.full(targets.shape, 1.0 / len(targets), device=hidden.device))
