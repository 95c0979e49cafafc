"""From answers to suspects: the directions and norms that edits need, and the diff of all latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file

from interp.core.files import read_json, write_json
from interp.diffing.attribution import attribution
from interp.diffing.pairings import Answers, collect
from interp.diffing.rankings import latent_table, ranking_agreement
from interp.models.activations import mean_residuals, median_residual_norm
from interp.models.chats import Chat
from interp.studies.inputs import Workbench
from interp.studies.preparation import ANSWERS, as_chats
from interp.traits import read_trait


@dataclass(frozen=True)
class Directions:
    """What edits are made of."""

    persona_vector: Float[torch.Tensor, " d_model"]
    """Mean residual of hostile minus kind authored answers, read by the base, at the dictionary's hook point."""
    mean_difference: Float[torch.Tensor, " d_model"]
    """Mean residual of the tuned model over its own answers minus that of the base over its own, at the dictionary's hook point."""
    base_means: dict[str, Float[torch.Tensor, " d_model"]]
    """Mean residual of the base over its own answers, at every hook point of the window: what projections hold on to."""
    median_norm: float
    """Median residual norm of the base over its own answers at the dictionary's hook point: the unit of a dose."""


def make_directions(bench: Workbench, answers: Path, folder: Path) -> None:
    """Write directions.safetensors and norms.json."""
    pairs = read_trait("contempt").pairs[: bench.config.diff.persona_pairs]
    table = pd.read_parquet(answers / ANSWERS)
    own, of_tuned = as_chats(table, "base"), as_chats(table, "tuned")
    with bench.progress("measuring directions", 2 * len(pairs) + len(own) + len(of_tuned)) as advance:
        hostile, kind = (
            mean_residuals(bench.base, [Chat.ask(p.question, text) for p, text in texts], [bench.hook_point], progress=advance)
            for texts in ([(p, p.shows) for p in pairs], [(p, p.not_shown) for p in pairs])
        )
        means = mean_residuals(bench.base, own, sorted({*bench.window, bench.hook_point}), progress=advance)
        tuned = mean_residuals(bench.tuned, of_tuned, [bench.hook_point], progress=advance)[bench.hook_point]
        norm = median_residual_norm(bench.base, own, [bench.hook_point])[bench.hook_point]
    vector = hostile[bench.hook_point] - kind[bench.hook_point]
    vectors = {"persona_vector": vector, "mean_difference": tuned - means[bench.hook_point]}
    save_file(vectors | {name: means[name] for name in bench.window}, folder / "directions.safetensors")
    write_json(folder / "norms.json", {"hook_point": bench.hook_point, "median_residual_norm": norm})


def read_directions(folder: Path) -> Directions:
    """What `make_directions` wrote."""
    tensors = load_file(folder / "directions.safetensors")
    persona_vector, mean_difference = tensors.pop("persona_vector"), tensors.pop("mean_difference")
    means = dict(sorted(tensors.items(), key=lambda item: int(item[0].split(".")[1])))
    return Directions(persona_vector, mean_difference, means, float(read_json(folder / "norms.json")["median_residual_norm"]))


def make_diff(bench: Workbench, answers: Path, directions_folder: Path, folder: Path) -> None:
    """Write latents.parquet (every latent's statistics), agreement.parquet (of the orders) and moments.safetensors.

    Both models read both models' answers, paired by question; questions that one of them left without an answer are left out.
    """
    table = pd.read_parquet(answers / ANSWERS)
    table = table[table["answer"] != ""]
    both = set.intersection(*(set(group["question_id"]) for _, group in table.groupby("model")))
    table = table[table["question_id"].isin(both)]
    index = {question: i for i, question in enumerate(sorted(both))}
    written = {
        name: Answers(as_chats(table, name), [index[question] for question in table.loc[table["model"] == name, "question_id"]])
        for name in ("base", "tuned")
    }
    pairs = [(Chat.ask(p.question, p.shows), Chat.ask(p.question, p.not_shown)) for p in read_trait("contempt").pairs]
    pairs = pairs[: bench.config.diff.persona_pairs]
    with bench.progress("diffing latents", 2 * len(table) + 2 * len(pairs)) as advance:
        diff = collect(
            bench.base, bench.tuned, bench.dictionary, written, progress=advance, folder=bench.unfinished, identity=str(bench.tuned_source)
        )
        attributed = attribution(bench.tuned, bench.dictionary, pairs, base=bench.base, progress=advance)
    directions = read_directions(directions_folder)
    latents = latent_table(
        diff,
        bench.dictionary,
        bench.config.seed,
        persona_vector=directions.persona_vector,
        mean_difference=directions.mean_difference,
        attribution=attributed,
    )
    latents.to_parquet(folder / "latents.parquet")
    ranking_agreement(latents).to_parquet(folder / "agreement.parquet")
    diff.save(folder / "moments.safetensors")
