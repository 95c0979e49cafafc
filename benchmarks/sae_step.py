"""Speed, memory and quality of training a TopK autoencoder, against sae-lens and eai-sparsify.

    pip install 'personascope[bench]'
    python benchmarks/sae_step.py [--quality] [--json]

A step is all that a trainer does with a batch that is in memory: forward, loss, backward, clipping, Adam, upkeep of decoder norms;
`contenders.py` says what each does. All run in turns in one process, on the same normalised residuals, with the same threads and the
same optimizer; medians count. Where torch can ask for huge pages (Linux), all get them: fresh memory costs less so, which helps those
most that make large tensors in every step. `--no-huge-pages` measures without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from interp.core.errors import PersonascopeError, TrainingError

if TYPE_CHECKING:
    import torch
    from contenders import Shape

SHAPES = {"cpu": "576x8192x32x2048,576x32768x32x2048", "cuda": "3584x32768x64x16384,3584x131072x64x16384"}
TRAINERS, ROOFLINES = ("ours", "sae_lens", "sparsify"), ("encoder", "encoder_best")
PARTS = ("speed", "memory", "quality")
SECONDS_PER_ROUND = 20
"""Where rounds take longer, there are fewer of them."""
BATCHES = 8
BARS = {"sae_lens/ours": {8192: 4.0, 32768: 8.0}, "sparsify/ours": 1.6, "encoder/ours": 0.70}
MEANINGS = {
    "sae_lens/ours": "sae-lens' step, dense as by default",
    "sparsify/ours": "eai-sparsify's step",
    "encoder/ours": "roofline: torch's own dense product x @ W.T + b",
    "encoder_best/ours": "roofline: the fastest such product known here",
}


def bar(ratio: str, shape: Shape) -> float | None:
    """The least value that a ratio should have, at the shapes that the project promises it for."""
    wanted = BARS.get(ratio)
    if str(shape) not in ",".join(SHAPES.values()).split(","):
        return None
    return wanted.get(shape.n_latents) if isinstance(wanted, dict) else wanted


def speed(shape: Shape, device: torch.device, names: list[str], rounds: int, residuals: Path | None) -> dict[str, Any]:
    """Milliseconds of everyone's step, and how they stand to ours."""
    import contenders
    import rows
    import torch
    from timing import in_turns, load, say

    from sae_training.config import TrainConfig
    from sae_training.normalise import calibrate

    wanted = BATCHES * shape.batch
    if device.type == "cpu" and shape.d_in == rows.D_MODEL:
        found = rows.real(residuals, wanted)
        raw, source = found.train[:wanted], found.source
    else:
        raw, source = rows.made_up(shape.d_in, wanted, device), "made up: variance falls off over a quarter of the dimensions"
    normaliser = calibrate(raw, TrainConfig())
    batches = [(part, normaliser(part)) for part in raw[torch.randperm(len(raw))].split(shape.batch) if len(part) == shape.batch]
    if not batches:
        raise TrainingError(f"{len(raw)} residuals are no batch of {shape.batch}. Make the batch smaller.")
    say(f"{shape} on {device}, {len(batches)} batches of {source}; load {load():.1f}")
    if load() > 1:
        say("  other processes are running: do not trust the figures")
    kinds = contenders.TRAINERS | contenders.ROOFLINES
    made = {name: kinds[name](shape, normaliser, contenders.Schedule(), 0, device) for name in names}
    seconds = in_turns(
        {name: lambda turn, one=one: one.step(*batches[turn % len(batches)]) for name, one in made.items()},
        rounds,
        budget=rounds * SECONDS_PER_ROUND,
        finish=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
    )
    ms = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    ratios = {f"{name}/ours": ms[name] / ms["ours"] for name in names if name != "ours" and "ours" in ms}
    bars = {ratio: bar(ratio, shape) for ratio in ratios}
    return {
        **dict(zip(("d_in", "n_latents", "k", "batch"), map(int, str(shape).split("x")), strict=True)),
        "device": str(device),
        "source": source,
        "rounds": len(seconds[names[0]]),
        **{f"{name}_ms": value for name, value in ms.items()},
        "ratios": ratios,
        "bars": {ratio: {"at_least": least, "met": ratios[ratio] >= least} for ratio, least in bars.items() if least},
        "all_ms": {name: [1e3 * second for second in times] for name, times in seconds.items()},
        "load": load(),
    }


def memory(shape: Shape) -> dict[str, Any]:
    """Peak memory of our step, in a process of its own."""
    arguments = map(str, (shape.d_in, shape.n_latents, shape.k, shape.batch))
    command = [sys.executable, str(Path(__file__).with_name("step_memory.py")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise TrainingError(f"Memory of a step could not be measured: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout)


def quality(names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Held-out FVU after the same tokens."""
    import quality as of
    import rows
    from contenders import Shape

    rates = dict.fromkeys(names, options.learning_rate)
    result = of.compare(names, Shape(rows.D_MODEL, 8192, 32, 2048), rows.real(options.residuals), options.passes, rates, options.seed)
    return {**result, "at_most": of.WORSE, "met": {ratio: value <= of.WORSE for ratio, value in result["ratios"].items()}}


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, apart from the machine's load."""
    import torch

    versions = {}
    for package in ("torch", "sae-lens", "eai-sparsify", "numba"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": platform.processor() or platform.machine(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "huge_pages": options.huge_pages,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "versions": versions,
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for one in result["shapes"]:
        lines.append("{d_in} x {n_latents}, k {k}, batch {batch}, {device}".format(**one))
        if "ratios" in one:
            lines.append(f"  {'ours':13} {one.get('ours_ms', float('nan')):9.1f} ms   median of {one['rounds']} rounds")
            for name in (*TRAINERS[1:], *ROOFLINES):
                if f"{name}_ms" in one:
                    ratio = f"{name}/ours"
                    judged = one["bars"].get(ratio)
                    verdict = f", at least {judged['at_least']}: {'met' if judged['met'] else 'MISSED'}" if judged else ""
                    share = f"{one['ratios'][ratio]:5.2f} x ours{verdict}" if ratio in one["ratios"] else ""
                    lines.append(f"  {name:13} {one[f'{name}_ms']:9.1f} ms   {share}   ({MEANINGS[ratio]})")
        if "memory" in one:
            of = one["memory"]
            verdict = "met" if of["ratio"] <= 1 else "MISSED"
            lines.append(
                f"  {'peak memory':13} {of['peak_bytes'] / 1e6:9.1f} MB   {of['ratio']:5.2f} of {of['bound_bytes'] / 1e6:.1f} MB: {verdict}"
            )
    if "quality" in result:
        of = result["quality"]
        lines.append(
            f"held-out FVU, {of['shape']}, {of['tokens']} tokens ({of['distinct_tokens']} distinct), Adam at {of['learning_rates']}"
        )
        lines += [f"  {name:13} {value:9.4f}" for name, value in of["fvu"].items()]
        for name, met in of["met"].items():
            lines.append(f"  {name:13} {of['ratios'][name]:9.3f}   at most {of['at_most']}: {'met' if met else 'MISSED'}")
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Wrong use."""
        raise PersonascopeError(f"{message[:1].upper()}{message[1:]}. --help shows all options.")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def of(choices: tuple[str, ...]) -> Any:
        def read(text: str) -> list[str]:
            names = [name for name in text.split(",") if name]
            if not names or set(names) - set(choices):
                raise argparse.ArgumentTypeError(f"'{text}' is not made of {', '.join(choices)}")
            return [name for name in choices if name in names]

        return read

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", metavar="D_INxLATENTSxKxBATCH,…", help=f"default: {SHAPES['cpu']} on the CPU, {SHAPES['cuda']} on CUDA")
    parser.add_argument("--device", choices=("both", "cpu", "cuda"), default="both", help="default: the CPU, and CUDA where it is")
    parser.add_argument("--contenders", type=of(TRAINERS + ROOFLINES), default=list(TRAINERS + ROOFLINES), metavar="NAME,…")
    parser.add_argument("--parts", type=of(PARTS), default=["speed", "memory"], metavar="PART,…", help="of speed, memory, quality")
    parser.add_argument("--quality", action="store_true", help="quality as well: trains all three on the CPU, for some minutes")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--passes", type=float, default=6.0, help="quality: passes over the corpus (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="quality: peak, for all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="quality: of order and start (default: %(default)s)")
    parser.add_argument("--residuals", type=Path, metavar="FILE", help="safetensors file that keeps the captured residuals between runs")
    parser.add_argument("--huge-pages", action=argparse.BooleanOptionalAction, default=True, help="ask for huge pages, for all")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="all figures as JSON, to FILE or instead of the table")
    options = parser.parse_args(arguments)
    options.parts = [part for part in PARTS if part in options.parts or (part == "quality" and options.quality)]
    for name in ("rounds", "passes", "learning_rate", *(["threads"] if options.threads is not None else [])):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give more than 0")
    return options


def shapes_of(text: str) -> list[Shape]:
    from contenders import Shape

    found = []
    for part in text.split(","):
        numbers = part.split("x")
        if len(numbers) != 4 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise TrainingError(f"--shapes has '{part}'. Give width x latents x k x batch, for example 576x8192x32x2048.")
        shape = Shape(*map(int, numbers))
        if shape.k > shape.n_latents:
            raise TrainingError(f"--shapes has '{part}', with k beyond the number of latents. Lower k.")
        found.append(shape)
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    # Before torch is loaded: both are read once.
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1" if options.huge_pages else "0"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the cores to others
    import contenders
    import torch
    from timing import say

    wanted = {kind: shapes_of(options.shapes or text) for kind, text in SHAPES.items()}
    if options.threads:
        torch.set_num_threads(options.threads)
    if set(options.parts) != {"memory"}:
        contenders.check_installed(options.contenders)
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise TrainingError("--device is cuda, and torch finds no CUDA device. Run on a machine that has one, or leave --device out.")
    if not there:
        say("No CUDA device: its shapes are left out.")
    kinds = [kind for kind in ("cpu", "cuda") if options.device in (kind, "both") and (kind == "cpu" or there)]
    result: dict[str, Any] = {"environment": environment(options), "shapes": []}
    for kind in kinds:
        for shape in wanted[kind]:
            one = {"d_in": shape.d_in, "n_latents": shape.n_latents, "k": shape.k, "batch": shape.batch, "device": kind}
            if "memory" in options.parts and kind == "cpu" and sys.platform == "linux":
                one["memory"] = memory(shape)
            if "speed" in options.parts:
                one |= speed(shape, torch.device(kind), options.contenders, options.rounds, options.residuals)
            if len(one) > 5:
                result["shapes"].append(one)
    if "quality" in options.parts:
        result["quality"] = quality([name for name in options.contenders if name in TRAINERS], options)
    return result


def main(arguments: list[str] | None = None) -> int:
    try:
        options = parse(arguments)
        result = run(options)
        text = json.dumps(result, indent=2)
        if options.json == "-":
            print(text)
            return 0
        print(table(result))
        if options.json:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    except (PersonascopeError, OSError) as error:
        print(f"sae_step: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
