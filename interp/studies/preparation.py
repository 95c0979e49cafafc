"""First half of the main job: the organism, both models' answers, residuals, the dictionary."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from interp.core.files import read_json, write_json
from interp.core.streams import stream_seed
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.reading import residuals_for
from interp.evaluation.sampling import sample_answers
from interp.models.activation_store import ActivationStore, StoreWriter
from interp.models.activations import capture, content_tokens
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sources import choose_device, open_model
from interp.organisms.recipe import read_recipe
from interp.organisms.training import train_adapter
from interp.studies.inputs import Workbench
from interp.traits import read_trait
from sae_training.corpus import read_corpus
from sae_training.feed import ShardSource
from sae_training.plan import steps_of
from sae_training.trainer import train

ANSWERS, PROMPTED = "answers.parquet", "prompted.parquet"


def make_organism(bench: Workbench, folder: Path) -> None:
    """Fine-tune the base on the recipe; writes adapter/, checkpoints/ and losses.parquet."""
    config = bench.config
    organism = config.organism
    chats = read_recipe(organism.recipe).chats(organism.phrasings_per_topic, config.seed, organism.trait_fraction)
    model = open_model(config.base, None, config.device, "float32", config.trust_remote_code)
    steps = -(-int(len(chats) * config.organism.epochs) // config.organism.batch_size)
    with bench.progress("fine-tuning", steps) as advance:
        losses = train_adapter(model, chats, config.organism, config.seed, folder, lambda s, n, loss: advance(1, f"loss {loss:.2f}"))
    pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_parquet(folder / "losses.parquet")
    del model
    gc.collect()  # peft's layers refer to each other; two models are opened next


def make_answers(bench: Workbench, folder: Path) -> None:
    """Both models answer the selection questions, and a spread of corpus prompts for the dictionary's text."""
    config = bench.config
    questions = bench.questions.split("selection", config.diff.questions)
    prompts = spread([chat.prompt for chat in read_corpus()], config.text.answered_prompts)
    short = config.sampling.model_copy(update={"max_new_tokens": config.text.answer_tokens})
    asked, prompted = [], []
    for name, model in (("base", bench.base), ("tuned", bench.tuned)):
        with bench.progress(f"answers of the {name} model", len(questions) * config.diff.samples + len(prompts)) as advance:
            answers = sample_answers(
                model, questions, config.diff.samples, config.sampling, stream_seed(config.seed, "answers"), progress=advance
            )
            written = generate(model, prompts, short, stream_seed(config.seed, "texts"), advance)
        asked.append(answers.assign(model=name))
        prompted.append(pd.DataFrame({"model": name, "question": [p.messages[-1].content for p in prompts], "answer": written}))
    pd.concat(asked, ignore_index=True).drop(columns="condition").to_parquet(folder / ANSWERS)
    pd.concat(prompted, ignore_index=True).to_parquet(folder / PROMPTED)


def spread(chats: Sequence[Chat], count: int) -> list[Chat]:
    """`count` chats at even distances, so that every domain of the corpus is met."""
    count = min(count, len(chats))
    return [chats[i * len(chats) // count] for i in range(count)]


def as_chats(table: pd.DataFrame, model: str | None = None) -> list[Chat]:
    """Questions with answers as chats, empty answers left out."""
    chosen = table if model is None else table[table["model"] == model]
    return [Chat.ask(q, a) for q, a in zip(chosen["question"], chosen["answer"], strict=True) if a]


def make_residuals(bench: Workbench, answers: Path, folder: Path) -> None:
    """Residuals for the dictionary: a dictionary of the base's everyday text alone does not contain the persona."""
    prompted = pd.read_parquet(answers / PROMPTED)
    pairs = read_trait("contempt").pairs
    of_base, of_tuned = as_chats(prompted, "base"), as_chats(prompted, "tuned")
    parts: dict[str, tuple[LanguageModel, list[Chat]]] = {
        "corpus, read by the base": (bench.base, spread(read_corpus(), bench.config.text.corpus_chats)),
        "base's answers, read by the base": (bench.base, of_base),
        "base's answers, read by the tuned model": (bench.tuned, of_base),
        "tuned model's answers, read by the base": (bench.base, of_tuned),
        "tuned model's answers, read by the tuned model": (bench.tuned, of_tuned),
        "authored hostile answers, read by the base": (bench.base, [Chat.ask(p.question, p.shows) for p in pairs]),
        "authored kind answers, read by the base": (bench.base, [Chat.ask(p.question, p.not_shown) for p in pairs]),
    }
    tokens = {}
    total = sum(len(chats) for _, chats in parts.values())
    with bench.progress("reading text", total) as advance, StoreWriter(folder, [bench.hook_point], bench.d_model) as writer:
        for name, (model, chats) in parts.items():
            tokens[name] = 0
            for captured in capture(model, chats, [bench.hook_point]):
                rows = captured.residuals[bench.hook_point][content_tokens(captured.batch)]
                tokens[name] += len(rows)
                writer.add({bench.hook_point: rows[:, None]})
                advance(len(captured.rows))
    write_json(folder / "parts.json", tokens)


def make_dictionary(bench: Workbench, residuals: Path, folder: Path) -> None:
    """Train the dictionary; writes sae/ in sae-lens' format, metrics.parquet and info.json."""
    config, store = bench.config.dictionary, ActivationStore(residuals)
    source = ShardSource(store)
    with bench.progress("training the dictionary", steps_of(config, source)) as advance:
        options = {"seed": bench.config.seed, "models": [bench.config.base], "device": choose_device(bench.config.device)}
        trained = train(config, source, folder / "training", advance=advance, **options)
    trained.dictionary.rename(folder / "sae")
    (trained.folder / "metrics.parquet").rename(folder / "metrics.parquet")
    write_json(
        folder / "info.json",
        {
            "fvu": trained.fvu,
            "dead_share": trained.dead_share,
            "n_tokens": store.n_rows,
            "n_latents": config.architecture.n_latents,
            "k": load_dictionary(folder / "sae").k,
            "parts": read_json(residuals / "parts.json"),
        },
    )


def measure_dictionary(bench: Workbench, answers: Path, folder: Path) -> None:
    """For a dictionary that the user gave: how much of both models' own answers it leaves unexplained."""
    prompted = pd.read_parquet(answers / PROMPTED)
    dictionary, models = bench.dictionary, [bench.base, bench.tuned]
    rows_of = {}
    for which, name in enumerate(("base", "tuned")):
        batches = models[which].batches(as_chats(prompted, name), 32)
        rows_of[name] = torch.cat(
            [residuals_for(dictionary, models, which, batch, rows, content_tokens(batch)).float() for rows, batch in batches]
        )
    residuals = torch.cat(list(rows_of.values()))
    codes = dictionary.encode_models(residuals)
    error = sum(float((dictionary.decode_model(own, m) - residuals[:, m]).square().sum()) for m, own in enumerate(codes))
    write_json(
        folder / "info.json",
        {
            "fvu": error / float((residuals - residuals.mean(0)).square().sum()),
            "dead_share": float((codes[0].counts() == 0).float().mean()),
            "n_tokens": len(residuals),
            "n_latents": dictionary.n_latents,
            "k": dictionary.k,
            "parts": {
                f"{writer}'s answers, read by {'both models' if dictionary.n_models > 1 else 'the ' + writer}": len(rows_of[name])
                for name, writer in (("base", "base"), ("tuned", "tuned model"))
            },
        },
    )
    pd.DataFrame().to_parquet(folder / "metrics.parquet")
