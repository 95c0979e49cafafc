"""Residuals for the benchmarks: the embedded model's on the committed corpus, or made-up ones of any width."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from timing import say

from interp.models.activations import capture, content_tokens
from interp.models.chats import Chat
from interp.models.sources import open_model
from sae_training.corpus import read_corpus

MODEL, HOOK_POINT, D_MODEL = "embedded:smollm2", "blocks.15.hook_resid_post", 576
HELD_OUT = 0.1


@dataclass(frozen=True)
class Residuals:
    """Rows of one hook point."""

    train: Float[torch.Tensor, "rows 1 d_in"]
    held_out: Float[torch.Tensor, "rows 1 d_in"]
    """Those of the corpus' last chats."""
    source: str


def real(file: Path | None, most: int | None = None) -> Residuals:
    """Residuals at all content tokens, or at the first `most`. `file` keeps them all: it is read if it is there, else written."""
    source = f"{MODEL}, {HOOK_POINT}, content tokens of the committed corpus"
    if file is not None and file.exists():
        kept = load_file(file)
        return Residuals(kept["train"], kept["held_out"], source)
    if file is not None:
        most = None
    say(f"Capturing residuals: {source}")
    chats = read_corpus()
    split = round(len(chats) * (1 - HELD_OUT))
    model = open_model(MODEL, device="cpu")

    def rows_of(part: list[Chat], most: int | None) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for captured in capture(model, part, [HOOK_POINT]):
            found.append(captured.residuals[HOOK_POINT][content_tokens(captured.batch)][:, None].clone())
            if most is not None and sum(map(len, found)) >= most:
                break
        return torch.cat(found)[:most]

    result = Residuals(rows_of(chats[:split], most), rows_of(chats[split:], most and most // 10), source)
    if file is not None:
        save_file({"train": result.train, "held_out": result.held_out}, file)
    return result


def made_up(d_in: int, rows: int, device: torch.device, seed: int = 0) -> Float[torch.Tensor, "rows 1 d_in"]:
    """Rows whose variance falls off over a quarter of their dimensions, as residuals' does, around a mean."""
    generator = torch.Generator(device).manual_seed(seed)
    rank = max(1, d_in // 4)
    directions = torch.randn(rank, d_in, generator=generator, device=device) / d_in**0.5
    strengths = torch.arange(1, rank + 1, device=device) ** -0.5
    made = torch.randn(rows, rank, generator=generator, device=device) * strengths @ directions
    return (made + 0.02 * torch.randn(rows, d_in, generator=generator, device=device) + directions[0])[:, None]
