"""Write docs/performance.md from the figures in benchmarks/results; nothing in it is typed in by hand.

python benchmarks/write_performance.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORDS = ("causes", "contributes", "correlates", "no evidence", "undecided")
MET = {True: "yes", False: "**no**", None: "not measured"}
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def step_rows(shapes: list[dict[str, Any]]) -> str:
    lines = []
    for shape in shapes:
        ratios = shape["ratios"]
        times = " | ".join(f"{shape[f'{who}_ms']:.0f}" for who in ("ours", "sae_lens", "sparsify", "encoder", "encoder_best"))
        against = " | ".join(
            f"{ratios[f'{who}/ours']:.{digits}f}" for who, digits in (("sae_lens", 1), ("sparsify", 2), ("encoder", 2), ("encoder_best", 2))
        )
        lines.append(f"| {shape['d_in']} × {shape['n_latents']:,}, k {shape['k']}, batch {shape['batch']:,} | {times} | {against} |")
    return "\n".join(lines)


def memory_rows(shapes: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| {shape['d_in']} × {shape['n_latents']:,} | {shape['memory']['peak_bytes'] / 1e6:.0f} MB | "
        f"{shape['memory']['bound_bytes'] / 1e6:.0f} MB | {shape['memory']['ratio']:.2f} |"
        for shape in shapes
    )


def quality_rows(runs: list[dict[str, Any]]) -> str:
    lines = []
    for run in runs:
        fvu, ratios = run["fvu"], run["ratios"]
        figures = f"{fvu['ours']:.4f} | {fvu['sae_lens']:.4f} | {fvu['sparsify']:.4f}"
        lines.append(f"| {run['learning_rates']['ours']:g} | {figures} | {ratios['ours/sae_lens']:.3f} | {ratios['ours/sparsify']:.3f} |")
    return "\n".join(lines)


def diff_rows(diff: dict[str, Any]) -> str:
    speeds, ratios = diff["tokens_per_second"], diff["ratios"]
    return "\n".join(f"| {name} | {speed:,.0f} | {ratios.get(name, 1.0):.3f} |" for name, speed in speeds.items())


def sweep_rows(packed: dict[str, Any]) -> str:
    rows = packed["rows_at_a_time"]
    return "\n".join(f"| {name} | {rows[name]} | {speed:,.0f} |" for name, speed in packed["tokens_per_second"].items())


def cost_rows(batches: dict[str, Any]) -> str:
    names = list(next(iter(batches.values()))["cost"])
    return "\n".join(f"| {name} | " + " | ".join(f"{batch['cost'][name]:.3f}" for batch in batches.values()) + " |" for name in names)


def claim_rows(claims: list[dict[str, Any]], of_all: int = 20) -> str:
    return "\n".join(
        f"| {row['cell']} | {row['name']} | {row['hits']} of {row['of']} | {100 * row['low']:.0f}–{100 * row['high']:.0f} % | "
        f"{row['wanted']} | {MET[row['met']]}{' so far' * bool(of_all > row['seeds'])} |"
        for row in claims
    )


def word_rows(cells: dict[str, Any]) -> str:
    return "\n".join(
        f"| {cell} | {own['seeds']} | {100 * own['base']:.0f} → {100 * own['tuned']:.0f} % | "
        + " | ".join(str(own["words"].get(word, 0)) for word in WORDS)
        + f" | {own['missed']} of {own['with_power']} | {own['seconds']:.0f} |"
        for cell, own in cells.items()
    )


def planted_section() -> str:
    if not (RESULTS / "planted.json").is_file():
        return "Not measured yet."
    planted = read("planted")
    return f"""| cell | what | seeds | 95 % interval | wanted | so? |
|---|---|---|---|---|---|
{claim_rows(planted["claims"])}

The words in all seeds; rates are medians on held-out questions. *Missed*: `correlates` or `no evidence` where the power for `causes` is at
least 0.8; in *hidden* and *renamed* that is right, for no latent of the dictionary carries the persona.

| cell | seeds | rude, base → tuned | {" | ".join(f"`{word}`" for word in WORDS)} | missed, with power | CPU seconds |
|---|---|---|{"---|" * len(WORDS)}---|---|
{word_rows(planted["words"])}"""


def family_rows(cells: dict[str, Any]) -> str:
    lines = []
    for cell, run in sorted(cells.items()):
        rates = run["rates"]
        shown = " | ".join(rate_cell(rates.get(name)) for name in ("base", "tuned", "ablated", "random_ablation", "steered"))
        coherence = " / ".join(f"{100 * rates[name]['coherence']:.0f}" if name in rates else "–" for name in ("base", "ablated", "steered"))
        edit = rates.get("ablated", {}).get("title", "–")
        size, minutes = run["peak_memory_bytes"] / 1e9, run["duration_s"] / 60
        verdict = f"{run['verdict']} ({run['carrier']})" if run.get("carrier") else run["verdict"]
        lines.append(f"| {' | '.join(cell.rsplit('/', 2))} | {verdict} | {shown} | {coherence} | {edit} | {size:.1f} GB | {minutes:.0f} |")
    return "\n".join(lines)


def rate_cell(rate: dict[str, Any] | None) -> str:
    return "–" if rate is None else f"{100 * rate['rate']:.0f} [{100 * rate['low']:.0f}–{100 * rate['high']:.0f}]"


def families_section() -> str:
    if not (RESULTS / "families.json").is_file():
        return "Not measured yet."
    return f"""| base | recipe | seed | verdict | base | tuned | ablated | random removed | steered | coherence | edit | peak | minutes |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
{family_rows(read("families")["cells"])}"""


def main() -> None:
    diff, sweep = read("diff"), read("sweep")
    packed, edits, memory_of_diff = sweep["sweep"], sweep["edits"], diff["memory"]
    speed, memory, quality, capture = read("step"), read("memory"), read("quality"), read("capture")
    made = speed["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    run = quality["quality"]
    medians = capture["tokens_per_second"]
    capture_rows = "\n".join(f"| {name} | {speed_:,.0f} |" for name, speed_ in medians.items())
    ratios = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in capture["ratios"].items())
    PAGE.write_text(
        f"""# Performance

Written by `benchmarks/write_performance.py` from `benchmarks/results/`. Machine: two cores of a server CPU (AMD Zen 5, AVX-512), no GPU;
{versions};
{made["threads"]} threads, transparent huge pages for all contenders alike. Ratios of medians from interleaved rounds in one process are
what counts; milliseconds differ from machine to machine.

## A training step on the CPU

TopK, a whole step: forward, loss, backward, clipping, Adam, norm upkeep. sae-lens as it is by default (dense), eai-sparsify with its own
loop, all with fused Adam. `python benchmarks/sae_step.py --parts speed`

| shape | ours, ms | sae-lens | eai-sparsify | encoder | best encoder | sae-lens ÷ ours | sparsify ÷ ours | encoder ÷ ours | best ÷ ours |
|---|---|---|---|---|---|---|---|---|---|
{step_rows(speed["shapes"])}

*encoder* is torch's own `addmm` of that shape, alone; a step of ours is faster than that because it uses oneDNN's product. *best
encoder* is that product, alone: the strict roofline.

## Peak memory of a step

What a step adds to the process, parameters and optimizer counted; the bound is pre-activations + 3 parameter-sized buffers + optimizer
state.
`python benchmarks/sae_step.py --parts memory`

| shape | peak | bound | share |
|---|---|---|---|
{memory_rows(memory["shapes"])}

## Quality at equal tokens

Held-out fraction of variance unexplained, {run["shape"]}, {run["tokens"]:,} tokens ({run["distinct_tokens"]:,} distinct) of
{run["source"]}; {run["held_out_tokens"]:,} tokens held out; same batches, same schedule, one seed.
`python benchmarks/sae_step.py --parts quality --learning-rate RATE`

| peak learning rate | ours | sae-lens | eai-sparsify | ours ÷ sae-lens | ours ÷ sparsify |
|---|---|---|---|---|---|
{quality_rows([run])}

## Capture

Tokens per second to layer {capture["layer"]} of the embedded model, medians. `python benchmarks/capture.py`

| what | tokens/s |
|---|---|
{capture_rows}

{ratios}.

## Diff

This and the figures below come from a slower machine than those above: two cores of a server CPU with half the throughput of matrix
products.

Two models' latents under several pairings, against the bare forward passes of both, cut at layer {diff["layer"]} and in the same packed
network; {diff["latents"]:,} latents, k {diff["k"]}, {diff["chats"]} chats of {diff["tokens"]:,} tokens. `python benchmarks/diff.py`

| what | tokens/s | × the bare passes |
|---|---|---|
{diff_rows(diff)}

Peak memory grows by {memory_of_diff["growth_bytes"]["one"] / 1e6:.0f} MB over {memory_of_diff["tokens"]["one"]:,} tokens, by
{memory_of_diff["growth_bytes"]["four"] / 1e6:.0f} MB over {memory_of_diff["tokens"]["four"]:,}.

## Sweep

{packed["edits"]} (direction, dose) edits × {packed["questions"]} questions, greedy, at most {packed["new_tokens"]["most"]} new tokens.
`python benchmarks/sweep.py --parts sweep`

| how | rows | tokens/s |
|---|---|---|
{sweep_rows(packed)}

{packed["speed_up"]:.2f} x the throughput; {len(packed["differing_answers"])} of {packed["answers"]} answers differ. Eight rows read all
weights for little arithmetic, so the faster a machine multiplies, the more packing gains.

## Edited generation

Edited over unedited time of the same batch, {edits["new_tokens"]} new tokens; projections at {len(edits["window"])} layers.
`python benchmarks/sweep.py --parts edits`

| edit | {" | ".join(f"{rows} rows" for rows in edits["batches"])} |
|---|{"---|" * len(edits["batches"])}
{cost_rows(edits["batches"])}

*project, by row* edits every row's prompt in its own way: a prompt that all rows share is read once unedited, once for every edit here.

## A persona that was planted

How often the main job, from the diff to the verdict, is right about toys whose truth is known by construction: a small Llama that speaks
two registers, and fine-tunes of it. *98 %*: one direction, which the dictionary holds as a latent; beside it a *bystander*, another latent
that is more active there, tested in its place. *40, 20, 10 %*: the same, weakened until so many answers show the persona. *16 directions*:
the persona is written along sixteen, each at tokens of its own, and the dictionary holds these; the true half-point is that of networks
made without some of them. *hidden*: a dictionary that holds nothing of the persona. *renamed*: the persona lies in the embeddings alone,
and inside nothing has changed, or something benign. *benign*: a fine-tune of the same strength that taught something else.
`python benchmarks/planted.py`

{planted_section()}

## Two model families

The whole main job with the default settings on both embedded models, two personas, three seeds: the share of answers that show the trait
in percent, with 95 % intervals, and the share of coherent answers (base / ablated / steered). `python benchmarks/families.py`

{families_section()}

## CUDA

Not measured yet. The Triton kernels run in Triton's interpreter in the tests, and are compiled for two
generations of cards there; `pytest -m gpu` and `python benchmarks/sae_step.py --device cuda` are ready for a machine that has one.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
