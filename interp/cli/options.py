"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[str | None, typer.Option("--base", help="Base model: hub id, folder, .gguf file, or embedded:smollm2.")]
Tuned = Annotated[str | None, typer.Option("--tuned", help="Fine-tuned model: hub id, folder, or LoRA adapter over the base.")]
Sae = Annotated[
    Path | None,
    typer.Option("--sae", help="SAE or crosscoder: folder, sae-lens:RELEASE/ID or hub:OWNER/REPO/FOLDER. Default: train an SAE."),
]
QuestionSet = Annotated[str | None, typer.Option("--questions", help="Question set: a shipped name or a YAML file.")]
HookPoint = Annotated[str | None, typer.Option("--hook-point", help="Where the SAE reads, e.g. blocks.15.hook_resid_post.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run directory. Default: artifacts/runs/NAME. A finished step in it is not run again.")
]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file of a study; 'personascope config' prints all fields.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set one field, e.g. --set dictionary.architecture.n_latents=8192. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
DType = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a model repository brings along.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory that has come at least as far as 'personascope diff'.")]
Latent = Annotated[int | None, typer.Option("--latent", help="Latent whose decoder row is added.")]
Latents = Annotated[str | None, typer.Option("--latents", metavar="N,N,…", help="Latents, with commas between.")]
Direction = Annotated[str | None, typer.Option("--direction", help="Instead of a latent: persona_vector, mean_difference or random:SEED.")]
Dose = Annotated[float | None, typer.Option("--dose", help="Norm of what is added over the median residual norm there, e.g. 0.5.")]
Phase = Annotated[str | None, typer.Option("--phase", help="At which tokens: response, prompt or all.")]
Layers = Annotated[str | None, typer.Option("--layers", metavar="FIRST-LAST", help="Window of layers, e.g. 8-22. Default: the run's.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt of your own. Repeatable.")]
Asked = Annotated[int | None, typer.Option("--questions", help="Number of selection questions that are asked where no prompt is given.")]
Samples = Annotated[int | None, typer.Option("--samples", help="Answers to each.")]
AnswerTokens = Annotated[int | None, typer.Option("--tokens", help="Tokens an answer may have at most. Default: as in the run.")]
Everywhere = Annotated[
    bool, typer.Option("--everywhere", help="Project out behind everything that writes to the residual stream: exact in weights.")
]
LastLayer = Annotated[int | None, typer.Option("--last-layer", help="With --everywhere: the last layer. Default: that of the model.")]
OneCentre = Annotated[bool, typer.Option("--one-centre", help="With --everywhere: one centre at all places, for models without biases.")]
