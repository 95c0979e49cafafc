"""From last hidden states to logits, so many tokens at a time: with a vocabulary of 262,144 the logits of 128 tokens take 128 MiB."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int

LOGITS = 2**25
"""Logits that are computed together."""


class _Stop(Exception):
    """Raised when the last hidden states are there: the logits are not needed yet."""


class Unembedding:
    """One forward pass up to the unembedding, and the network's own way from there (scaling, soft-capping) for any of its tokens."""

    def __init__(self, network: Any, inputs: Mapping[str, Any], around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """Run `network`, plain or wrapped by peft, on `inputs`. Whatever it computes, now and later, it computes inside `around()`."""
        self.network, self.around = getattr(network, "get_base_model", lambda: network)(), around
        self.body = self.network.base_model

        def keep(_module: Any, _args: Any, output: Any) -> None:
            self.output = output
            raise _Stop

        with around(), self.body.register_forward_hook(keep), suppress(_Stop):
            network(**inputs)

    @property
    def hidden(self) -> Float[torch.Tensor, "batch position d_model"]:
        """Last hidden states, after the final norm. (A network without a body of its own has no other than its logits.)"""
        hidden: torch.Tensor = self.output[0]
        return hidden

    def logits(self, hidden: Float[torch.Tensor, "n d_model"]) -> Float[torch.Tensor, "n vocab"]:
        """Logits after these last hidden states."""
        if self.body is self.network:
            return hidden
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with self.around(), _returning(self.body, replace(self.output, last_hidden_state=hidden[None])):
            logits: torch.Tensor = self.network(input_ids=ids, use_cache=False, logits_to_keep=0).logits[0]
        return logits

    def parts(self, n: int) -> list[slice]:
        """So many tokens in parts whose logits are computed together."""
        rows = max(1, LOGITS // int(self.network.config.get_text_config().vocab_size))
        return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]

    def loss(
        self, hidden: Float[torch.Tensor, "n d_model"], targets: Int[torch.Tensor, " n"], weights: Float[torch.Tensor, " n"]
    ) -> Float[torch.Tensor, ""]:
        """Σ weight × cross-entropy (nats) of the token after each hidden state; gradients flow into `hidden`.

        Where there are several parts, the gradient is computed along with the loss, and no part's logits are kept. That is
        not done for an unembedding that is itself trained.
        """
        parts, head = self.parts(len(hidden)), self.network.get_output_embeddings()
        trained = head is not None and any(weight.requires_grad for weight in head.parameters())
        if len(parts) > 1 and torch.is_grad_enabled() and hidden.requires_grad and not trained:
            loss: torch.Tensor = _LossInParts.apply(hidden, self, targets, weights)
            return loss
        return sum(
            (self._part_loss(hidden[part], targets[part], weights[part]) for part in parts), hidden.new_zeros((), dtype=torch.float32)
        )

    def _part_loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(self.logits(hidden).float(), targets, reduction="none")
        return (losses * weights).sum()


class _LossInParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, unembedding: Unembedding, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        total, gradient = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden)
        for part in unembedding.parts(len(hidden)):
            with torch.enable_grad():
                leaf = hidden[part].detach().requires_grad_()
                loss = unembedding._part_loss(leaf, targets[part], weights[part])
                (gradient[part],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None


@contextmanager
def _returning(module: torch.nn.Module, output: Any) -> Iterator[None]:
    """Inside, `module` computes nothing and returns `output`."""
    own = vars(module).get("forward")
    vars(module)["forward"] = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own
