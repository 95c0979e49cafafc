"""The commands that work on a run directory: diff, steer, ablate, sweep, verdict, export, chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options as o

edit_app = typer.Typer()


@edit_app.command()
def diff(
    base: o.Base = None,
    tuned: o.Tuned = None,
    sae: o.Sae = None,
    questions: o.QuestionSet = None,
    hook_point: o.HookPoint = None,
    name: o.Name = None,
    out: o.Out = None,
    config: o.Config = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.DType = None,
    trust_remote_code: o.RemoteCode = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Latents that are printed.")] = 12,
    json: o.AsJson = False,
) -> None:
    """Which latents changed between two models; the first part of 'run', which goes on from there."""
    from interp.cli.diff import diff_from_options

    given = {"base": base, "tuned": tuned, "sae": sae, "questions": questions, "hook_point": hook_point, "name": name, "seed": seed}
    place = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code or None}
    diff_from_options(given | place, config, set_ or [], out, top, json)


@edit_app.command()
def steer(
    run: o.Run,
    latent: o.Latent = None,
    direction: o.Direction = None,
    dose: o.Dose = None,
    phase: o.Phase = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="CONDITION", help="Only at tokens where a latent is active: LATENT, or 'LATENT>0.5'.")
    ] = None,
    prompt: o.Prompts = None,
    questions: o.Asked = None,
    samples: o.Samples = None,
    tokens: o.AnswerTokens = None,
    device: o.Device = None,
    json: o.AsJson = False,
) -> None:
    """Add a latent or another direction to the base: its answers before and after, side by side."""
    from interp.cli.verbs import steer_from_options

    what = {"latent": latent, "direction": direction, "dose": dose, "phase": phase, "where": where}
    steer_from_options(run, what | {"prompts": prompt, "questions": questions, "samples": samples, "tokens": tokens}, device, json)


@edit_app.command()
def ablate(
    run: o.Run,
    latents: o.Latents = None,
    kind: Annotated[str | None, typer.Option("--kind", help="project-out, subtract or mean.")] = None,
    layers: o.Layers = None,
    search_layers: Annotated[
        bool, typer.Option("--search-layers", help="Look for the smallest window that does it, on selection questions.")
    ] = False,
    everywhere: o.Everywhere = False,
    last_layer: o.LastLayer = None,
    one_centre: o.OneCentre = False,
    phase: o.Phase = None,
    prompt: o.Prompts = None,
    questions: o.Asked = None,
    samples: o.Samples = None,
    tokens: o.AnswerTokens = None,
    device: o.Device = None,
    json: o.AsJson = False,
) -> None:
    """Remove latents from the tuned model: its answers before and after, side by side."""
    from interp.cli.verbs import ablate_from_options

    what = {"latents": latents, "kind": kind, "layers": layers, "search_layers": search_layers or None, "phase": phase}
    place = {"everywhere": everywhere or None, "last_layer": last_layer, "one_centre": one_centre or None}
    asked = {"prompts": prompt, "questions": questions, "samples": samples, "tokens": tokens}
    ablate_from_options(run, what | place | asked, device, json)


@edit_app.command()
def sweep(
    run: o.Run,
    latents: o.Latents = None,
    direction: Annotated[
        list[str] | None, typer.Option("--direction", help="Also: persona_vector, mean_difference or random:SEED. Repeatable.")
    ] = None,
    doses: Annotated[str | None, typer.Option("--doses", metavar="X,X,…", help="Doses, with commas between, e.g. 0.3,0.4,0.5.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", help="Share of incoherent answers that is let pass. Default: 0.1.")] = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Look for the largest coherent dose between two doses.")] = False,
    rounds: Annotated[int | None, typer.Option("--rounds", help="With --bisect: halvings. Default: 4.")] = None,
    phase: o.Phase = None,
    questions: o.Asked = None,
    samples: o.Samples = None,
    device: o.Device = None,
    json: o.AsJson = False,
) -> None:
    """Add latents to the base at several doses: dose-response, largest coherent dose, range to ship."""
    from interp.cli.verbs import sweep_from_options

    what = {"latents": latents, "directions": direction, "doses": doses, "budget": budget, "bisect": bisect or None, "rounds": rounds}
    sweep_from_options(run, what | {"phase": phase, "questions": questions, "samples": samples}, device, json)


@edit_app.command()
def verdict(
    run: o.Run,
    latents: o.Latents = None,
    steer_latent: Annotated[int | None, typer.Option("--steer-latent", help="Latent that is added to the base; with --dose.")] = None,
    dose: o.Dose = None,
    transfer: Annotated[
        str | None, typer.Option("--transfer", metavar="TUNED2", help="A second fine-tune of the base: is it switched off too?")
    ] = None,
    device: o.Device = None,
    json: o.AsJson = False,
) -> None:
    """Are latents the cause? Those that the run's screen chose, or yours, against all controls on held-out questions."""
    from interp.cli.verbs import verdict_from_options

    verdict_from_options(run, {"latents": latents, "steer_latent": steer_latent, "dose": dose, "transfer": transfer}, device, json)


@edit_app.command()
def export(
    run: o.Run,
    to: Annotated[Path | None, typer.Option("--to", help="Folder of the edited model, in Hugging Face's format; must be new.")] = None,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="Control vector for llama.cpp, of an edit that adds.")] = None,
    edit: Annotated[str | None, typer.Option("--edit", help="An edit of the run's verdict: ablated or steered.")] = None,
    latents: o.Latents = None,
    everywhere: o.Everywhere = False,
    last_layer: o.LastLayer = None,
    one_centre: o.OneCentre = False,
    steer_latent: Annotated[int | None, typer.Option("--steer-latent", help="Latent to add to the base at every token.")] = None,
    dose: o.Dose = None,
    device: o.Device = None,
    json: o.AsJson = False,
) -> None:
    """Put an edit into the weights of a model, or write it as a control vector."""
    from interp.cli.verbs import export_from_options

    what = {"to": to, "gguf": gguf, "edit": edit, "latents": latents, "steer_latent": steer_latent, "dose": dose}
    place = {"everywhere": everywhere or None, "last_layer": last_layer, "one_centre": one_centre or None}
    export_from_options(run, what | place, device, json)


@edit_app.command()
def chat(
    run: o.Run,
    latents: o.Latents = None,
    kind: Annotated[str | None, typer.Option("--kind", help="project-out, subtract or mean.")] = None,
    layers: o.Layers = None,
    tokens: o.AnswerTokens = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    device: o.Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a turn.")] = False,
) -> None:
    """Talk to the base, the tuned and the edited model at once. The edit: the verdict's, or --latents removed."""
    from interp.cli.chat import chat_from_options

    chat_from_options(run, {"latents": latents, "kind": kind, "layers": layers}, tokens, greedy, device, json)
