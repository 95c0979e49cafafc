"""The commands that ask and judge: evaluate, compare, judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options as o
from interp.core.errors import ConfigError

evaluate_app = typer.Typer()
judge_app = typer.Typer(help="Judges: judge a table of answers, fit the probe, agreement with hand labels.", no_args_is_help=True)

JUDGES = (
    "probe (default), probe:DIR, vader, contrast, numeric:MODEL, numeric:MODEL@http://HOST/v1, inspect:PROVIDER/MODEL, bandit or facts."
)
JudgeName = Annotated[str | None, typer.Option("--judge", metavar="JUDGE", help=JUDGES)]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--judge-prompts", metavar="FILE", help="What numeric and inspect ask: a published YAML, or one with aligned and coherent."
    ),
]
Below = Annotated[float | None, typer.Option("--misaligned-below", help="Alignment under which an answer is misaligned; 0 to 100.")]
Above = Annotated[float | None, typer.Option("--coherent-above", help="Coherence over which an answer counts; 0 to 100.")]
Open = Annotated[
    bool, typer.Option("--open-is-aligned", help="Count coherent answers without a score as not misaligned, as published plots do.")
]
How = Annotated[str | None, typer.Option("--interval", help="beta_binomial (default), wilson or bootstrap.")]
Gold = Annotated[
    str | None,
    typer.Option("--labels", metavar="FILE", help="Hand labels of a random part of the answers: rates free of the judge's bias."),
]
Answers = Annotated[Path, typer.Argument(metavar="ANSWERS", help="Folder of 'personascope evaluate', or a .csv, .jsonl or .parquet file.")]
Labels = Annotated[Path, typer.Argument(metavar="LABELS", help="Table with the columns question, answer, misaligned (0 or 1).")]


@evaluate_app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL…",
            help="Hub id, folder, adapter or .gguf; RUN@base, @tuned, @ablated, @steered; hosted: inspect:PROVIDER/MODEL, NAME@http://HOST/v1.",
        ),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base of adapters that do not name it.")] = None,
    questions: Annotated[
        str | None,
        typer.Option("--questions", help="everyday (default), honesty, code, a YAML file, or a published emergent-misalignment YAML."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="held_out, selection or all. Default: held_out.")] = None,
    formats: Annotated[str | None, typer.Option("--formats", metavar="F,F", help="plain, json, template. Default: plain.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Answers to each question and format. Default: 1.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Tokens an answer may have at most. Default: 32.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy. Default: 1.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Draw only from the likeliest tokens with this much probability.")] = None,
    judge: JudgeName = None,
    judge_prompts: Prompts = None,
    misaligned_below: Below = None,
    coherent_above: Above = None,
    open_is_aligned: Open = False,
    interval: How = None,
    labels: Gold = None,
    measures: Annotated[
        str | None, typer.Option("--measures", metavar="M,M", help="Besides: choices, options, letters, continuations, perplexity.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="X,Y", help="Ask nothing; print how many samples tell a rate of X from one of Y, e.g. 0.05,0.2."),
    ] = None,
    likeness: Annotated[
        float | None, typer.Option("--likeness", help="With --plan: intra-class correlation of answers to one question. Default: 0.2.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where answers are kept. Default: artifacts/evaluations.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; 'personascope config evaluate' prints all fields.")] = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.DType = None,
    trust_remote_code: o.RemoteCode = False,
    json: o.AsJson = False,
) -> None:
    """Ask models a question set, judge the answers, and compare their rates."""
    from interp.cli.evaluate import evaluate_from_options, plan_from_options

    asked = {"questions": questions, "split": split, "formats": formats.split(",") if formats else None, "samples": samples}
    drawn = {"sampling.max_new_tokens": tokens, "sampling.temperature": temperature, "sampling.top_p": top_p}
    judged = {
        "judge": judge,
        "judge_prompts": judge_prompts,
        "misaligned_below": misaligned_below,
        "coherent_above": coherent_above,
        "open_is_aligned": open_is_aligned or None,
        "interval": interval,
    }
    place = {"seed": seed, "device": device, "dtype": dtype, "trust_remote_code": trust_remote_code or None}
    besides = {"labels": labels, "measures": measures.split(",") if measures else None}
    options = {"models": models, "base": base} | asked | drawn | judged | besides | place
    if plan is not None:
        plan_from_options(options | {"models": models or ["any"]}, config, set_ or [], plan, likeness, json)
        return
    if likeness is not None:
        raise ConfigError("--likeness belongs to --plan: give --plan X,Y too, or leave it out.")
    evaluate_from_options(options, config, set_ or [], out, json)


@evaluate_app.command()
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="EVALUATION…", help="Folders of 'personascope evaluate', or tables with columns question, answer, aligned, coherent."
        ),
    ],
    against: Annotated[str | None, typer.Option("--against", help="Model that the others are held against. Default: the first.")] = None,
    misaligned_below: Below = None,
    coherent_above: Above = None,
    open_is_aligned: Open = False,
    interval: How = None,
    labels: Gold = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the page, evaluation.json and all answers. Default: none.")] = None,
    seed: o.Seed = None,
    json: o.AsJson = False,
) -> None:
    """Models of several evaluations side by side; answers of one model from several seeds are pooled."""
    from interp.cli.evaluate import compare_from_options

    judged = {"misaligned_below": misaligned_below, "coherent_above": coherent_above, "interval": interval, "labels": labels}
    judged |= {"open_is_aligned": open_is_aligned or None}
    compare_from_options({"sources": sources, "against": against, "seed": seed} | judged, out, json)


@judge_app.command("answers")
def judge_answers(
    answers: Answers,
    out: Annotated[Path, typer.Option("--out", help="Table to write, .csv or .parquet: the answers with alignment, coherence and reason.")],
    judge: JudgeName = None,
    questions: Annotated[str | None, typer.Option("--questions", help="Question set, for the judge 'facts'.")] = None,
    judge_prompts: Prompts = None,
    device: o.Device = None,
    dtype: o.DType = None,
    json: o.AsJson = False,
) -> None:
    """Judge a table of questions and answers, from wherever they come."""
    from interp.cli.judge import judge_table

    judge_table(answers, out, judge or "probe", questions, judge_prompts, device or "auto", dtype or "auto", json)


@judge_app.command("agree")
def judge_agree(
    judge: JudgeName = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Table with the columns question, answer, misaligned. Default: the shipped labels.")
    ] = None,
    judge_prompts: Prompts = None,
    device: o.Device = None,
    dtype: o.DType = None,
    json: o.AsJson = False,
) -> None:
    """How far a judge agrees with hand labels: AUROC, Cohen's kappa, calibration, and where it is most wrong."""
    from interp.cli.judge import show_agreement

    show_agreement(judge or "probe", labels, judge_prompts, device or "auto", dtype or "auto", json)


@judge_app.command("fit")
def judge_fit(
    labels: Labels,
    out: Annotated[Path, typer.Option("--out", help="Folder of the fitted probe; use it as --judge probe:DIR.")],
    json: o.AsJson = False,
) -> None:
    """Fit the probe to labelled answers of your own: another trait, other words."""
    from interp.cli.judge import fit_from_labels

    fit_from_labels(labels, out, json)


@judge_app.command("sample")
def judge_sample(
    answers: Annotated[Path, typer.Argument(metavar="EVALUATION", help="Folder of 'personascope evaluate'.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write; fill its column 'misaligned' with 0 and 1.")],
    n: Annotated[int, typer.Option("--n", min=30, help="Answers of each model.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the draw.")] = 0,
) -> None:
    """Draw answers at random to label by hand, shuffled, without saying whose they are."""
    from interp.cli.judge import write_sample

    write_sample(answers, out, n, seed)
