"""`personascope evaluate` and `compare`, and what they print."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from interp.cli.arguments import CompareArguments, EvaluateArguments, print_json
from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.core.steps import EVALUATION_FILE, MANIFEST_FILE
from interp.reports.evaluation_page import write_evaluation_page
from interp.reports.evaluation_terminal import show_evaluation
from interp.reports.terminal import percent, plain_console, plain_table
from interp.stats.power import LIKENESS, enough, plan
from interp.studies import comparing, evaluating
from interp.studies.evaluation import write_evaluation
from interp.studies.evaluation_config import CompareConfig, EvaluateConfig


def evaluate(config: EvaluateConfig, arguments: EvaluateArguments) -> None:
    """Ask, judge, compare; or plan."""
    if arguments.plan:
        _show_plan(config, arguments)
        return
    result = evaluating.evaluate(config, arguments.out, quiet=arguments.as_json, announce=arguments.announce)
    page = write_evaluation_page(arguments.out)
    saved = f"Page: {page}\nAnswers and judgements: {arguments.out}/judged.parquet"
    arguments.report(result.as_json(), partial(show_evaluation, result, saved))


def compare(config: CompareConfig, arguments: CompareArguments) -> None:
    """Put side by side what was judged before."""
    result = comparing.compare(config)
    if arguments.out is not None:
        _make_folder(arguments.out)
        write_evaluation(arguments.out, result)
        arguments.announce(f"Page: {write_evaluation_page(arguments.out)}")
    arguments.report(result.as_json(), partial(show_evaluation, result))


def _make_folder(out: Path) -> None:
    """Raise `ConfigError` for a folder whose files would be lost: anything but an earlier comparison."""
    kept = out / EVALUATION_FILE
    if (out / MANIFEST_FILE).exists() or (kept.exists() and "sources" not in read_json(kept)["config"]):
        raise ConfigError(f"{out} holds another evaluation or run, which would be written over. Choose another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)


def _show_plan(config: EvaluateConfig, arguments: EvaluateArguments) -> None:
    """The power of each number of samples for the questions that the settings choose."""
    questions = len({question.counts_as for question in evaluating.chosen_questions(config)})
    pair = arguments.plan
    powers = plan(pair[0], pair[1], questions, LIKENESS if arguments.likeness is None else arguments.likeness)
    found = enough(powers)
    if arguments.as_json:
        print_json({"questions": questions, "enough": found and asdict(found), "powers": [asdict(power) for power in powers]})
        return
    table = plain_table("answers a question", "answers in all", "power")
    for power in powers:
        table.add_row(str(power.samples), str(power.answers), percent(power.power))
    console = plain_console()
    console.print(f"Two models, {questions} questions, rates {pair[0]:g} and {pair[1]:g}, paired by question, p < 0.05 two-sided\n")
    console.print(table)
    if found is None:
        console.print("\nNo number of samples is enough with these questions: ask more questions.")
        return
    each = -(-found.samples // len(config.formats))
    formats = f" in each of {len(config.formats)} formats" if len(config.formats) > 1 else ""
    console.print(f"\n--samples {each}{formats} is enough: {found.samples} answers a question have power {percent(found.power)}.")
