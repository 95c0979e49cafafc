"""Entry point: the commands, and what becomes of errors. A command's options are the fields of its settings (`generated.py`)."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from interp import __version__
from interp.cli.generated import Group
from interp.cli.generated import SettingsCommand as Command
from interp.core.errors import EditWarning, ModelWarning, PersonascopeError, reason_of

STUDY = "interp.studies.persona.config:StudyConfig"
EDITS = "interp.studies.steering_config"
EVALUATION = "interp.studies.evaluation_config"
TRAINING = "interp.studies.training_config"

ANSWER_OPTIONS = {"tokens": "sampling.max_new_tokens", "temperature": "sampling.temperature", "top-p": "sampling.top_p"}
STUDY_OPTIONS = {"cues": "cues.source"}
TRAIN_OPTIONS = {
    "kind": "dictionary.architecture.kind",
    "k": "ks",
    "tokens": "dictionary.tokens",
    "batch": "dictionary.batch_tokens",
    "learning-rate": "dictionary.learning_rate",
}
CROSSCODER_OPTIONS = {"base-only": "dictionary.architecture.base_only", "tuned-only": "dictionary.architecture.tuned_only"}

app = Group(
    "personascope",
    help="Find the persona that fine-tuning put into a model, prove that it is the cause, and switch it off.",
    context_settings={"max_content_width": 110},
    commands=[
        Command("demo", "The main job on the embedded model: make an organism with a persona, find it, prove it, switch it off.",
                "interp.cli.study:run", STUDY, "RunArguments", names=STUDY_OPTIONS, fixed={"name": "demo"}, without=["tuned"]),
        Command("run", "The main job on your own pair of models.", "interp.cli.study:run_pair", STUDY, "RunArguments",
                names=STUDY_OPTIONS),
        Command("diff", "Which latents changed between two models; the first part of 'run', which continues from there.",
                "interp.cli.study:diff", STUDY, "DiffArguments"),
        Command("report", "Write report.html of a finished run again, from its saved results alone.",
                "interp.cli.study:report", arguments="ReportArguments", positional=["folder"]),
        Command("steer", "Add a latent or another direction to the base: its answers before and after, side by side.",
                "interp.cli.edits:steer", f"{EDITS}:SteerConfig", "OnRun", ["run"]),
        Command("ablate", "Remove latents from the tuned model: its answers before and after, side by side.",
                "interp.cli.edits:ablate", f"{EDITS}:AblateConfig", "OnRun", ["run"]),
        Command("sweep", "Add latents to the base at several doses: dose-response, largest coherent dose, range to ship.",
                "interp.cli.edits:sweep", f"{EDITS}:SweepConfig", "OnRun", ["run"]),
        Command("verdict", "Are latents the cause? Those that the screen chose, or yours, against all controls, on held-out questions.",
                "interp.cli.edits:verdict", f"{EDITS}:VerdictConfig", "OnRun", ["run"]),
        Command("export", "Put an edit into the weights of a model, or write it as a control vector.",
                "interp.cli.edits:export", f"{EDITS}:ExportConfig", "OnRun", ["run"]),
        Command("knockout", "Which part of the weights: the fine-tune's change in single layers and modules, alone and left out.",
                "interp.cli.edits:knockout", "interp.studies.knockout_config:PairKnockoutConfig", "KnockoutArguments", ["run"]),
        Command("chat", "Talk to the base, the tuned and the edited model at once. The edit: the verdict's, or --latents removed.",
                "interp.cli.chat:chat", f"{EDITS}:ChatConfig", "ChatArguments", ["run"]),
        Command("evaluate", "Ask models a question set, judge the answers, and compare their rates.",
                "interp.cli.evaluate:evaluate", f"{EVALUATION}:EvaluateConfig", "EvaluateArguments", ["models"], ANSWER_OPTIONS),
        Command("compare", "Models of several evaluations side by side; answers of one model from several seeds are pooled.",
                "interp.cli.evaluate:compare", f"{EVALUATION}:CompareConfig", "CompareArguments", ["sources"]),
        Group("judge", help="Judges: judge a table of answers, fit the probe, agreement with hand labels.", commands=[
            Command("answers", "Judge a table of questions and answers, from wherever they come.",
                    "interp.cli.judge:answers", f"{EVALUATION}:JudgeConfig", "JudgeArguments", ["answers"]),
            Command("agree", "How far a judge agrees with hand labels: AUROC, Cohen's kappa, calibration, and where it is most wrong.",
                    "interp.cli.judge:agree", f"{EVALUATION}:JudgeConfig", "AgreeArguments", without=["questions"]),
            Command("fit", "Fit the probe to labelled answers of your own: another trait, other words.",
                    "interp.cli.judge:fit", arguments="FitArguments", positional=["labels"]),
            Command("sample", "Draw answers at random to label by hand, shuffled, without saying whose they are.",
                    "interp.cli.judge:sample", arguments="SampleArguments", positional=["evaluation"]),
        ]),
        Group("trait", help="Traits: list, show, make one of your own, check it, sample its pairs.", commands=[
            Command("list", "Shipped traits.", "interp.cli.trait:list_traits"),
            Command("show", "One trait: its settings and what its files hold.",
                    "interp.cli.trait:show", arguments="TraitArguments", positional=["trait"]),
            Command("new", "Write a commented folder to edit; every file in it says what belongs there.",
                    "interp.cli.trait:new", arguments="NewTraitArguments", positional=["name"]),
            Command("check", "What a trait is missing and what that costs, how far its judges agree with the labels, how pairs separate.",
                    "interp.cli.trait:check", arguments="CheckTraitArguments", positional=["trait"]),
            Command("pairs", "Sample pairs under the trait's positive and negative system prompts; its judge confirms them.",
                    "interp.cli.trait:pairs", arguments="PairsArguments", positional=["trait"]),
            Command("fit", "Fit a trait's judges (probe or margin, coherence) on its labels, into its folder.",
                    "interp.cli.trait:fit", arguments="TraitArguments", positional=["trait"]),
        ]),
        Group("train", help="Train dictionaries on residuals: from a store, or live from models.", commands=[
            Command("sae", "Sparse autoencoders on the residuals of one model, of two, or on their difference.",
                    "interp.cli.train:train", f"{TRAINING}:TrainingConfig", "TrainArguments",
                    names={**TRAIN_OPTIONS, "reads": "dictionary.reads"}),
            Command("crosscoder", "Crosscoders: one dictionary over a base and its fine-tune, whose latents say whose they are.",
                    "interp.cli.train:train", f"{TRAINING}:TrainingConfig", "TrainArguments",
                    names={**TRAIN_OPTIONS, **CROSSCODER_OPTIONS}, fixed={"dictionary.reads": "pair"}),
        ]),
        Command("capture", "Read text with one model or a pair, and keep the residuals on disk to train dictionaries on.",
                "interp.cli.train:capture", f"{TRAINING}:CaptureConfig", "StoreArguments"),
        Command("config", "Print every field of a command's settings with its default, as YAML to start from.",
                "interp.cli.defaults:print_defaults", arguments="ConfigArguments", positional=["command"]),
        Command("doctor", "Versions, device, memory, disk, embedded models, and what is missing with the command that fixes it.",
                "interp.cli.doctor:report"),
    ],
)  # fmt: skip
click.version_option(__version__, message="personascope %(version)s", help="Print the version.")(app)


def main() -> None:
    """Run the command line: errors a user can fix are one line on standard error and exit code 2; an interrupt is 130."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that sleep at once take a third longer, those that wait as long as by default twice as long beside a busy process.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # other libraries' bars, which would fill a log
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows another in its place
    try:
        with plain_warnings(), app.make_context("personascope", sys.argv[1:]) as context:
            code = app.invoke(context)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except PersonascopeError as error:
        code = _complain(str(error))
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        code = _complain(error.format_message(), where.get_usage() + "\n" if where else "")
    except (click.Abort, KeyboardInterrupt):
        print("personascope: interrupted; finished steps are kept, run the same command to resume.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # whoever read has gone
        sys.stderr.close()
        code = 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{place}{reason_of(error)}. Free some space or choose another place; finished steps are kept.")
    sys.exit(code if isinstance(code, int) else 0)


HOME, OURS = Path(__file__).parents[2], ("interp", "sae_training")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Our own warnings as one line on standard error, each once; those of others as they are."""
    shown: set[str] = set()
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **keywords: Any) -> None:
        if not (category.__module__.startswith(OURS) or any(Path(filename).is_relative_to(HOME / package) for package in OURS)):
            others(message, category, filename, *rest, **keywords)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"personascope: note: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries mean to change is nothing to the user
        for ours in OURS:
            warnings.filterwarnings("always", module=ours)
        for kind in (EditWarning, ModelWarning):
            warnings.filterwarnings("always", category=kind)
        warnings.showwarning = show
        yield


def _complain(message: str, usage: str = "") -> int:
    shown = message if message.startswith("Usage:") else f"{usage}personascope: {message}"  # without a command click's message is the help
    print(shown, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
