"""Speed of capturing residuals, against the bare forward pass cut at the same layer and against sae-lens' ActivationsStore.

All read the same token sequences of the committed corpus, in turns in one process; the medians count. The bare pass is the network
itself with its upper blocks taken out, once with this project's packed linear layers (what capture can reach at most) and once with
plain ones. That all four compute the same residuals is checked first.

    OMP_NUM_THREADS=2 python benchmarks/capture.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from interp.models.activations import capture_batch
from interp.models.chats import Role, TokenBatch
from interp.models.cpu.packed_linear import unpacked_copy
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from sae_training.corpus import read_corpus
from sae_training.live import pack

OURS, BARE, PLAIN, SAE_LENS = "capture", "bare forward, packed linears", "bare forward, plain linears", "sae-lens ActivationsStore"
BOUND = 0.95
"""Least share of the bare forward pass in the same network that capture must reach."""


@contextmanager
def cut(network: Any, blocks: int) -> Iterator[None]:
    """Only the first blocks are there, and no final norm: what comes out is the residual."""
    body, layers, norm = network.model, network.model.layers, network.model.norm
    body.layers, body.norm = torch.nn.ModuleList(layers[:blocks]), torch.nn.Identity()
    try:
        yield
    finally:
        body.layers, body.norm = layers, norm


def bare(network: Any, ids: torch.Tensor, layer: int) -> torch.Tensor:
    with cut(network, layer + 1), torch.inference_mode():
        return network.model(input_ids=ids, use_cache=False).last_hidden_state


def ours(model: LanguageModel, ids: torch.Tensor, layer: int) -> torch.Tensor:
    batch = TokenBatch(ids, torch.full_like(ids, int(Role.USER)), torch.full((len(ids),), ids.shape[1] - 1))
    return capture_batch(model, batch, [resid_post(layer)], range(len(ids))).residuals[resid_post(layer)]


def sae_lens_store(model: LanguageModel, sequences: torch.Tensor, rows: int, layer: int) -> Any:
    """Its store over a TransformerLens bridge, reading the sequences as a data set that is tokenised already."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    return ActivationsStore(
        model=model.bridge(),
        dataset=Dataset.from_dict({"tokens": sequences.tolist()}),
        streaming=False,
        hook_name=f"blocks.{layer}.hook_out",  # the bridge knows resid_post by this name alone when names come in a list
        hook_head_index=None,
        context_size=sequences.shape[1],
        d_in=model.d_model,
        n_batches_in_buffer=8,
        total_training_tokens=len(sequences),
        store_batch_size_prompts=rows,
        train_batch_size_tokens=rows * sequences.shape[1],
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )


def measure(source: str, layer: int, rows: int, tokens: int, repeats: int) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    model = open_model(source, device="cpu")
    texts = [f"{chat.messages[0].content}\n{chat.response}" for chat in read_corpus()]
    contexts = [context for context in pack(texts, model, tokens) if len(context) == tokens]
    turns = repeats + 1  # the first warms up
    sequences = torch.tensor(contexts[: rows * turns])
    if len(sequences) < rows * turns:
        raise SystemExit(f"The corpus makes {len(contexts)} sequences, {rows * turns} are needed. Ask for fewer repeats or rows.")
    plain: Any = unpacked_copy(model.network)
    store = sae_lens_store(model, sequences, rows, layer)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        OURS: lambda ids: ours(model, ids, layer),
        BARE: lambda ids: bare(model.network, ids, layer),
        PLAIN: lambda ids: bare(plain, ids, layer),
        SAE_LENS: lambda _ids: store.get_filtered_llm_batch(),  # it takes the next rows of its data set, the same ones
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn, ids in enumerate(sequences.split(rows)):
        found = {}
        names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]  # none always runs after the same other one
        for name in names:
            begun = time.perf_counter()
            found[name] = ways[name](ids)
            seconds[name].append(time.perf_counter() - begun)
        for name, residuals in found.items():
            torch.testing.assert_close(
                residuals.reshape(-1, model.d_model), found[PLAIN].reshape(-1, model.d_model), atol=2e-2, rtol=1e-3, msg=name
            )
    speed = {name: rows * tokens / statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        "model": source,
        "layer": layer,
        "blocks": model.n_layers,
        "rows": rows,
        "tokens_per_sequence": tokens,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tokens_per_second": speed,
        "seconds": {name: times[1:] for name, times in seconds.items()},
        "ratios": {f"capture / {name}": speed[OURS] / speed[name] for name in (BARE, PLAIN, SAE_LENS)},
        "ratios_turn_by_turn": {  # the median of each turn's ratio: what slows the whole machine for a while cancels out
            f"capture / {name}": statistics.median(b / a for a, b in zip(seconds[OURS][1:], seconds[name][1:], strict=True))
            for name in (BARE, PLAIN, SAE_LENS)
        },
        "bound": BOUND,
        "bound_met": speed[OURS] >= BOUND * speed[BARE],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.layer, arguments.rows, arguments.tokens, arguments.repeats)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.model}, layer {arguments.layer} of {result['blocks']}, {arguments.rows} x {arguments.tokens} tokens, ", end="")
    print(f"{result['threads']} threads, medians of {arguments.repeats}")
    for name, speed in result["tokens_per_second"].items():
        print(f"{name:32} {speed:8.0f} tokens/s   capture is {result['tokens_per_second'][OURS] / speed:.2f} x as fast")


if __name__ == "__main__":
    main()
