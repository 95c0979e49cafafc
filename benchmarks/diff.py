"""Cost of a diff of two models against their two bare forward passes, cut at the same layer, and how its memory grows with the text.

The bare passes run the same padded batches through the same packed networks with the upper blocks taken out, tokenised beforehand and
keeping nothing; the diff tokenises, encodes every token of content in both models and keeps all sums. Both are timed in turns in one
process, for each model on its own answers (`on_policy`) and for both on the same text (`base_text`, with latent scaling). The tuned model
is the base with noise in its weights, the dictionary is made of residuals: neither bears on the time.

    OMP_NUM_THREADS=2 python benchmarks/diff.py [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import warnings
from contextlib import ExitStack
from typing import Any

import torch
from capture import cut
from timing import PeakMemory, in_turns, load, say

from interp.dictionaries.sae import SAE
from interp.diffing.pairings import Answers, collect
from interp.models.activations import capture, content_tokens
from interp.models.chats import Chat
from interp.models.cpu.packed_linear import unpacked_copy
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel, position_ids
from interp.models.sources import open_model
from sae_training.corpus import read_corpus

BOUND = 1.10
"""Most that a diff may take, as a multiple of the two bare forward passes."""
MEMORY_BOUND = 1.2
"""Most that four times the text may take, as a multiple of the growth with the text alone."""
NOISE = 0.02


def noisy_copy(model: LanguageModel) -> LanguageModel:
    """The same model with a little noise in every linear layer."""
    network: Any = unpacked_copy(model.network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear) and module is not network.get_output_embeddings():
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.add_(NOISE * module.weight.std() * noise.to(module.weight))
    return LanguageModel(network, copy.deepcopy(model.tokenizer), f"{model.source} with noise")


def dictionary_of(model: LanguageModel, chats: list[Chat], layer: int, latents: int, k: int) -> SAE:
    """A TopK dictionary whose rows are residuals, centred and of norm one."""
    rows = torch.cat(
        [found.residuals[resid_post(layer)][content_tokens(found.batch)] for found in capture(model, chats, [resid_post(layer)])]
    )
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:latents].to(rows.device)
    if len(chosen) < latents:
        raise SystemExit(f"The text has {len(rows)} tokens, {latents} latents need as many. Ask for fewer latents or more chats.")
    rows = rows.float()
    mean = rows.mean(0)
    directions = torch.nn.functional.normalize(rows[chosen] - mean, dim=1)
    zeros = torch.zeros(latents, device=rows.device)
    return SAE(directions.T.contiguous(), zeros, directions, mean, "topk", k, None, True, resid_post(layer), source=model.source)


def bare(models: list[LanguageModel], batches: list[Any], layer: int) -> None:
    """Every model reads every batch up to `layer`; nothing is kept."""
    with torch.inference_mode(), ExitStack() as shortened:
        for model in models:
            shortened.enter_context(cut(model.network, layer + 1))
        for batch in batches:
            for model in models:
                ids, mask = batch.ids, batch.mask
                model.network.model(input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    base = open_model(arguments.model, device=arguments.device)
    tuned, layer, rows = noisy_copy(base), arguments.layer, arguments.rows
    chats = [chat for chat in read_corpus() if chat.response is not None]
    step = max(1, len(chats) // (4 * arguments.chats))
    chats = chats[::step][: 4 * arguments.chats]
    dictionary = dictionary_of(base, chats, layer, arguments.latents, arguments.k)
    some, finish = chats[: arguments.chats], torch.cuda.synchronize if base.device.type == "cuda" else (lambda: None)
    batches = [batch for _, batch in base.batches(some, rows)]
    answers = {name: Answers(some, list(range(len(some)))) for name in ("base", "tuned")}
    ways = {
        "bare": lambda _: bare([base, tuned], batches, layer),
        "on_policy": lambda _: collect(base, tuned, dictionary, answers, ["on_policy"], rows=rows),
        "base_text": lambda _: collect(base, tuned, dictionary, answers, ["base_text"], rows=rows),
    }
    seconds = in_turns(ways, arguments.repeats, warm=1, finish=finish)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians[name] / medians["bare"] for name in ("on_policy", "base_text")}
    turn_by_turn = {name: statistics.median(a / b for a, b in zip(seconds[name], seconds["bare"], strict=True)) for name in ratios}
    memory: dict[str, Any] = {}
    if base.device.type == "cpu":
        memory = growth_of_memory(base, tuned, dictionary, chats, rows)
    tokens = int(sum(batch.mask.sum() for batch in batches))
    return {
        "model": arguments.model,
        "device": str(base.device),
        "layer": layer,
        "blocks": base.n_layers,
        "latents": arguments.latents,
        "k": arguments.k,
        "chats": len(some),
        "tokens": tokens,
        "rows": rows,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": load(),
        "seconds": seconds,
        "medians": medians,
        "tokens_per_second": {name: 2 * tokens / time for name, time in medians.items()},
        "ratios": ratios,
        "ratios_turn_by_turn": turn_by_turn,  # what slows the whole machine for a while cancels out
        "bound": BOUND,
        "bound_met": max(ratios.values()) <= BOUND,
        **memory,
    }


def growth_of_memory(base: LanguageModel, tuned: LanguageModel, dictionary: SAE, chats: list[Chat], rows: int) -> dict[str, Any]:
    """Peak growth of resident memory, in bytes, over a text and over four times as much, in batches all alike."""
    longest = max(chats, key=lambda chat: sum(len(message.content) for message in chat.messages))
    growth, tokens = {}, {}
    for name, count in (("warm", 2 * rows), ("one", 2 * rows), ("four", 8 * rows)):
        part = [longest] * count
        say(f"  memory: {len(part)} chats")
        answers = {writer: Answers(part, [i % 24 for i in range(len(part))]) for writer in ("base", "tuned")}
        peak = PeakMemory()
        diff = collect(base, tuned, dictionary, answers, ["base_text"], rows=rows)
        growth[name], tokens[name] = peak.growth(), int(diff.texts["base"].tokens.sum())
    ratio = growth["four"] / growth["one"]
    bound_met = ratio <= MEMORY_BOUND
    return {"memory": {"growth_bytes": growth, "tokens": tokens, "ratio": ratio, "bound": MEMORY_BOUND, "bound_met": bound_met}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--chats", type=int, default=48)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['model']}, layer {result['layer']} of {result['blocks']}, {result['latents']} latents, k {result['k']}, ", end="")
    print(f"{result['chats']} chats of {result['tokens']} tokens, two models, {result['threads']} threads, medians of {result['repeats']}")
    for name, time in result["medians"].items():
        against = "" if name == "bare" else f"   {result['ratios'][name]:.3f} x the bare passes (bound {BOUND:.2f})"
        print(f"{name:10} {time:7.2f} s {result['tokens_per_second'][name]:8.0f} tokens/s{against}")
    if memory := result.get("memory"):
        one, four = memory["growth_bytes"]["one"] / 1e6, memory["growth_bytes"]["four"] / 1e6
        print(f"peak memory grew by {one:.0f} MB over {memory['tokens']['one']} tokens of content, by {four:.0f} MB over ", end="")
        print(f"{memory['tokens']['four']}: {memory['ratio']:.2f} x (bound {MEMORY_BOUND:.2f})")


if __name__ == "__main__":
    main()
