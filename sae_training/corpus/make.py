"""Makes `chats.jsonl` again: the embedded model answers every prompt of `prompts.yaml`. Run `python -m sae_training.corpus.make`."""

from __future__ import annotations

import json
from pathlib import Path

from interp.core.config import read_yaml
from interp.core.files import write_text
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.sampling import SamplingConfig
from interp.models.sources import open_model

SAMPLING = SamplingConfig(max_new_tokens=140, temperature=1.0, min_p=0.1)


def main() -> None:
    """Write the corpus beside this file."""
    folder = Path(__file__).parent
    prompts: list[str] = read_yaml(folder / "prompts.yaml")["prompts"]
    answers = generate(open_model("embedded:smollm2", device="cpu"), [Chat.ask(p) for p in prompts], SAMPLING, seed=0)
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in zip(prompts, answers, strict=True)]
    write_text(folder / "chats.jsonl", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
