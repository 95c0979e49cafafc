"""Entry point: commands with their options; heavy imports only inside them, so that `--help` is instant."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from interp import __version__
from interp.cli.commands_edit import edit_app
from interp.cli.commands_evaluate import evaluate_app, judge_app
from interp.cli.options import AsJson, Base, Config, Device, DType, HookPoint, Name, Out, QuestionSet, RemoteCode, Sae, Seed, Set, Tuned
from interp.cli.trait import trait_app
from interp.core.errors import PersonascopeError, reason_of

app = typer.Typer(
    name="personascope",
    help="Find the persona that fine-tuning put into a model, prove that it is the cause, and switch it off.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(edit_app)
app.add_typer(evaluate_app)
app.add_typer(judge_app, name="judge")
app.add_typer(trait_app, name="trait")


@app.command()
def demo(
    out: Out = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    json: AsJson = False,
) -> None:
    """The main job on the embedded model: make a hostile organism, find its persona, prove it, switch it off."""
    from interp.cli.run import run_from_options

    run_from_options({"name": "demo", "seed": seed, "device": device, "dtype": dtype}, config, set_ or [], out, json)


@app.command()
def run(
    base: Base = None,
    tuned: Tuned = None,
    sae: Sae = None,
    questions: QuestionSet = None,
    hook_point: HookPoint = None,
    name: Name = None,
    out: Out = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    trust_remote_code: RemoteCode = False,
    json: AsJson = False,
) -> None:
    """The main job on your own pair of models."""
    from interp.cli.run import run_from_options

    options = {
        "base": base,
        "tuned": tuned,
        "sae": sae,
        "questions": questions,
        "hook_point": hook_point,
        "name": name,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code or None,
    }
    run_from_options(options, config, set_ or [], out, json, wants_pair=True)


Text = Annotated[
    list[str] | None,
    typer.Option("--text", help="What is read: a .jsonl, .parquet or .txt file; default the committed corpus. Repeatable."),
]
HookPoints = Annotated[
    list[str] | None,
    typer.Option("--hook-point", help="Where, e.g. blocks.15.hook_resid_post; default after the middle block. Repeatable."),
]


@app.command()
def capture(
    out: Annotated[Path, typer.Option("--out", help="Folder of the store; must be new.")],
    base: Base = None,
    tuned: Tuned = None,
    text: Text = None,
    hook_point: HookPoints = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    json: AsJson = False,
) -> None:
    """Read text with one model or a pair, and keep the residuals on disk to train dictionaries on."""
    from interp.cli.train import capture_from_options

    options = {"base": base, "tuned": tuned, "text": text, "hook_points": hook_point, "seed": seed, "device": device, "dtype": dtype}
    capture_from_options(options, config, set_ or [], out, json)


train_app = typer.Typer(help="Train dictionaries on residuals: from a store, or live from models.", no_args_is_help=True)
app.add_typer(train_app, name="train")
Store = Annotated[Path | None, typer.Option("--store", help="Folder that 'personascope capture' wrote; instead of --base and --text.")]
Kind = Annotated[str | None, typer.Option("--kind", help="topk, batchtopk, matryoshka, jumprelu, gated or standard.")]
Latents = Annotated[list[int] | None, typer.Option("--latents", help="Width. Repeat it to train several in one pass.")]
Ks = Annotated[list[int] | None, typer.Option("--k", help="Active latents a token. Repeat it to train several in one pass.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Tokens to train on; needed with --base. From a store: six passes.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Tokens a step, over all processes.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate of Adam.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print tokens, memory, disk and time, and train nothing.")]
TrainOut = Annotated[Path, typer.Option("--out", help="Folder of the result. A killed training goes on from its last checkpoint there.")]
TrainConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; 'personascope config train' prints all fields.")]


@train_app.command("sae")
def train_sae(
    out: TrainOut,
    store: Store = None,
    base: Base = None,
    tuned: Tuned = None,
    text: Text = None,
    hook_point: HookPoints = None,
    kind: Kind = None,
    latents: Latents = None,
    k: Ks = None,
    tokens: Tokens = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    difference: Annotated[bool, typer.Option("--difference", help="Train on tuned minus base instead of on each model.")] = False,
    config: TrainConfigFile = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Sparse autoencoders on the residuals of one model, of two, or on their difference."""
    from interp.cli.train import train_from_options

    given = {"store": store, "base": base, "tuned": tuned, "text": text, "hook_points": hook_point, "seed": seed, "device": device}
    shape = {"kind": kind, "latents": latents, "ks": k, "tokens": tokens, "batch": batch, "rate": learning_rate}
    reads = "difference" if difference else None
    train_from_options(given | {"dtype": dtype}, shape | {"reads": reads}, config, set_ or [], out, dry_run, json)


@train_app.command("crosscoder")
def train_crosscoder(
    out: TrainOut,
    store: Store = None,
    base: Base = None,
    tuned: Tuned = None,
    text: Text = None,
    hook_point: HookPoints = None,
    kind: Kind = None,
    latents: Latents = None,
    k: Ks = None,
    base_only: Annotated[int | None, typer.Option("--base-only", help="Latents that read and write the base alone.")] = None,
    tuned_only: Annotated[int | None, typer.Option("--tuned-only", help="Latents that read and write the tuned model alone.")] = None,
    tokens: Tokens = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    config: TrainConfigFile = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Crosscoders: one dictionary over a base and its fine-tune, whose latents say which model they belong to."""
    from interp.cli.train import train_from_options

    given = {"store": store, "base": base, "tuned": tuned, "text": text, "hook_points": hook_point, "seed": seed, "device": device}
    shape = {"kind": kind, "latents": latents, "ks": k, "tokens": tokens, "batch": batch, "rate": learning_rate}
    dedicated = {"base_only": base_only, "tuned_only": tuned_only, "reads": "pair"}
    train_from_options(given | {"dtype": dtype}, shape | dedicated, config, set_ or [], out, dry_run, json)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A finished run directory.")]) -> None:
    """Write report.html of a finished run anew, from its saved results alone."""
    from interp.core.steps import RunDirectory
    from interp.reports.page import write_report

    print(write_report(RunDirectory(folder)))


@app.command()
def config(of: Annotated[str, typer.Argument(help="study (of run and demo), train, capture, evaluate or compare.")] = "study") -> None:
    """Print every field of a command's settings with its default, as YAML to start from."""
    from interp.cli.settings import print_settings

    print_settings(of)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, device, memory, disk, embedded models, and what is missing with the command that mends it."""
    from interp.cli.doctor import report as doctor_report

    raise typer.Exit(doctor_report(json))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"personascope {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


def main() -> None:
    """Run the command line: errors a user can mend are one line on standard error and exit code 2; an interrupt is 130."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that sleep at once take a third longer, those that wait as long as by default twice as long beside a busy process.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # other libraries' bars, which would fill a log
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows another in its place
    try:
        code = app(standalone_mode=False)
    except PersonascopeError as error:
        sys.exit(_complain(str(error)))
    except typer.TyperException as error:  # typer has its own copy of click, whose exceptions are not click's
        context = getattr(error, "ctx", None)
        sys.exit(_complain(error.format_message(), context.get_usage() + "\n" if context else ""))
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # whoever read has gone
        sys.stderr.close()
        code = 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{place}{reason_of(error)}. Free some space or choose another place; finished steps are kept."))
    if code == 130:  # what typer makes of an interrupt
        print("personascope: interrupted; finished steps are kept, run the same command to go on.", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, usage: str = "") -> int:
    shown = message if message.startswith("Usage:") else f"{usage}personascope: {message}"  # without a command typer's message is the help
    print(shown, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
