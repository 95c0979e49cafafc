"""From answers to suspects: the directions and norms that edits need, and the diff of all latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file

from interp.activations import mean_residuals, median_residual_norm
from interp.artifacts import read_json, write_json
from interp.chats import Chat
from interp.diffing.moments import collect_moments
from interp.diffing.rankings import latent_table
from interp.evaluation.persona_pairs import read_persona_pairs
from interp.studies.inputs import Workbench
from interp.studies.preparation import ANSWERS


@dataclass(frozen=True)
class Directions:
    """What edits are made of."""

    persona_vector: Float[torch.Tensor, " d_model"]
    """Mean residual of hostile minus kind authored answers, read by the base, at the dictionary's hook point."""
    base_means: dict[str, Float[torch.Tensor, " d_model"]]
    """Mean residual of the base over its own answers, at every hook point of the window: what projections hold on to."""
    median_norm: float
    """Median residual norm of the base over its own answers at the dictionary's hook point: the unit of a dose."""


def make_directions(bench: Workbench, answers: Path, folder: Path) -> None:
    """Write directions.safetensors and norms.json."""
    pairs = read_persona_pairs()[: bench.config.diff.persona_pairs]
    table = pd.read_parquet(answers / ANSWERS)
    own = [Chat.ask(q, a) for q, a, m in zip(table["question"], table["answer"], table["model"], strict=True) if m == "base" and a]
    with bench.progress("measuring directions", 2 * len(pairs) + len(own)) as advance:
        hostile, kind = (
            mean_residuals(bench.base, [Chat.ask(p.question, text) for p, text in texts], [bench.hook_point], progress=advance)
            for texts in ([(p, p.hostile) for p in pairs], [(p, p.kind) for p in pairs])
        )
        means = mean_residuals(bench.base, own, bench.window, progress=advance)
        norm = median_residual_norm(bench.base, own, [bench.hook_point])[bench.hook_point]
    vector = hostile[bench.hook_point] - kind[bench.hook_point]
    save_file({"persona_vector": vector, **means}, folder / "directions.safetensors")
    write_json(folder / "norms.json", {"hook_point": bench.hook_point, "median_residual_norm": norm})


def read_directions(folder: Path) -> Directions:
    """What `make_directions` wrote."""
    tensors = load_file(folder / "directions.safetensors")
    vector = tensors.pop("persona_vector")
    means = dict(sorted(tensors.items(), key=lambda item: int(item[0].split(".")[1])))
    return Directions(vector, means, float(read_json(folder / "norms.json")["median_residual_norm"]))


def make_diff(bench: Workbench, answers: Path, directions: Path, folder: Path) -> None:
    """Write latents.parquet: every latent's statistics, each model on its own answers, paired by question."""
    table = pd.read_parquet(answers / ANSWERS)
    table = table[table["answer"] != ""]
    both = set.intersection(*(set(group["question_id"]) for _, group in table.groupby("model")))
    table = table[table["question_id"].isin(both)]
    index = {question: i for i, question in enumerate(sorted(both))}
    moments = {}
    with bench.progress("diffing latents", len(table)) as advance:
        for name, model in (("base", bench.base), ("tuned", bench.tuned)):
            own = table[table["model"] == name]
            chats = [Chat.ask(q, a) for q, a in zip(own["question"], own["answer"], strict=True)]
            owners: Sequence[int] = [index[question] for question in own["question_id"]]
            moments[name] = collect_moments(model, bench.dictionary, chats, owners, advance)
    vector = read_directions(directions).persona_vector
    latents = latent_table(moments["base"], moments["tuned"], bench.dictionary.w_dec, vector, bench.config.seed)
    latents.to_parquet(folder / "latents.parquet")
