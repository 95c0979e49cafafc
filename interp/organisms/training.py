"""LoRA fine-tuning with peft: loss on response tokens only, checkpoints on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from interp.core.errors import TrainingError
from interp.models.chats import Chat, TokenBatch, pad_left
from interp.models.language_model import LanguageModel, position_ids
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

    The model's network is altered (adapter layers are put in): open it anew afterwards. Raises `TrainingError` on a loss that
    is not finite. `progress` gets (step, steps, loss).
    """
    from peft import LoraConfig, get_peft_model

    tokenised = model.tokenise(chats)
    steps = max(1, math.ceil(len(chats) * config.epochs / config.batch_size))
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the initial A matrices from the global generator
        network = get_peft_model(
            model.network,
            LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"),
        )
    adapter = network.peft_config["default"]
    adapter.target_modules = sorted(adapter.target_modules)  # peft keeps a set, whose order changes from process to process
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    queue: list[int] = []
    losses = []
    for step in range(1, steps + 1):
        while len(queue) < config.batch_size:
            queue += torch.randperm(len(chats), generator=order).tolist()
        chosen, queue = queue[: config.batch_size], queue[config.batch_size :]
        loss = response_loss(network, pad_left([tokenised[i] for i in chosen], model.pad_id).to(model.device))
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
    """Mean cross-entropy (nats) of the response tokens; logits are computed for the response's columns alone."""
    width = int(batch.ids.shape[1] - batch.response_start.min())
    logits = network(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        position_ids=position_ids(batch.mask),
        use_cache=False,
        logits_to_keep=width,
    ).logits[:, :-1]
    wanted = batch.response_tokens[:, 1 - width :]
    return torch.nn.functional.cross_entropy(logits[wanted].float(), batch.ids[:, 1 - width :][wanted])
