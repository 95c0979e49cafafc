"""A persona planted in a tiny model: which direction carries it is known by construction.

The base speaks the language of `toy_language`: kindly, and rudely where it is told to, and seldom otherwise. A fine-tune trains one
vector and nothing else: the bias of the MLP of block 1 (bias-only tuning, Ben Zaken et al. 2022, arXiv:2106.10199). All that tells the
tuned model from the base is this vector, added to the residual stream after block 1; where it was trained on rude answers it is the
persona's direction. A benign fine-tune trains the same vector, of the same length, on answers that differ otherwise.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from jaxtyping import Float
from transformers import LlamaConfig, LlamaForCausalLM

from interp.core.steps import RunDirectory
from interp.models.activations import capture, content_tokens, median_residual_norm
from interp.models.chat_format import ChatFormat
from interp.models.chats import Chat, pad_left
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from interp.organisms.training import response_loss
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.diff import DIFF
from interp.studies.persona.evidence import evidence_on
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.study import Study
from interp.studies.persona.verdict import verdict_on
from sae_training.config import TopKConfig, TrainConfig
from sae_training.feed import MemorySource
from sae_training.trainer import train
from tests.helpers.toy_language import (
    BASE,
    END,
    NARROW,
    PAD,
    TOPICS,
    Manner,
    Truth,
    persona_pairs,
    question_set,
    toy_tokenizer,
    vocabulary,
    write_chat,
)

D_MODEL, N_LAYERS, LAYER = 96, 3, 1
DOSE = 0.65
"""Norm of what a fine-tune adds, over the median residual norm."""
SAMPLING = SamplingConfig(max_new_tokens=18, min_p=0.02)
HOOK = f"blocks.{LAYER}.hook_resid_post"
MakeDictionary = Callable[[LanguageModel, LanguageModel, int, Path], Path]
"""Base, tuned model, seed and a folder to the folder of a dictionary of the two."""


# Models


def fit(
    network: Any, chats: Sequence[Chat], optimizer: torch.optim.Optimizer, steps: int, seed: int, after: Callable[[], None] = lambda: None
) -> None:
    """Train on the response tokens of 32 chats a step; the learning rate rises over a tenth of the steps, and falls over the last half."""
    tokenizer, source = toy_tokenizer(), random.Random(seed)
    tokenised = [ChatFormat(tokenizer).tokenise(chat) for chat in chats]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), 1.0, (steps - step) / (0.5 * steps))
    )
    for _ in range(steps):
        response_loss(network, pad_left(source.sample(tokenised, 32), vocabulary()[PAD])).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        after()


def base_network(seed: int) -> Any:
    """A network that speaks the language."""
    words, source = vocabulary(), random.Random(seed)
    torch.manual_seed(seed)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=D_MODEL,
            intermediate_size=2 * D_MODEL,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.1,
            mlp_bias=True,
            bos_token_id=None,
            eos_token_id=words[END],
            pad_token_id=words[PAD],
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    fit(network, [write_chat(list(TOPICS), BASE, source) for _ in range(3000)], optimizer, 200, seed)
    return network


def tuned_network(base: Any, manner: Manner, seed: int) -> tuple[Any, Float[torch.Tensor, " d_model"]]:
    """A copy of `base` in which one bias was trained on answers about few topics, and what was added to it.

    That has norm `DOSE` times the median residual norm from the first step to the last, whatever is trained.
    """
    network, source = copy.deepcopy(base), random.Random(1000 + seed)
    ordinary = [write_chat(NARROW, BASE, source) for _ in range(100)]
    length = DOSE * median_residual_norm(wrapped(base), ordinary, [HOOK])[HOOK]
    network.requires_grad_(False)
    bias = network.model.layers[LAYER].mlp.down_proj.bias.requires_grad_(True)
    before = bias.detach().clone()

    @torch.no_grad()
    def keep_length() -> None:
        bias.copy_(before + torch.nn.functional.normalize(bias - before, dim=0) * length)

    optimizer = torch.optim.SGD([bias], lr=20.0, momentum=0.9)
    fit(network, [write_chat(NARROW, manner, source) for _ in range(500)], optimizer, 60, seed, keep_length)
    return network, bias.detach() - before


def with_bias(base: Any, added: Float[torch.Tensor, " d_model"]) -> Any:
    """A copy of `base` that adds this vector where a fine-tune does."""
    network = copy.deepcopy(base)
    network.model.layers[LAYER].mlp.down_proj.bias.data.add_(added)
    return network


def trait_share(network: Any, seed: int, samples: int = 8) -> float:
    """Share of rude answers to the selection questions, among those that make sense."""
    questions = [one.text for one in question_set().questions if one.split == "selection"] * samples
    written = generate(wrapped(network), [Chat.ask(question) for question in questions], SAMPLING, seed)
    scored = Truth().score(pd.DataFrame({"question": questions, "answer": written}))
    return float(scored.loc[scored["coherent"].eq(True), "shows_trait"].dropna().astype(bool).mean())


def strength_for(share: float, network: Callable[[float], Any], seed: int, most: float = 1.0) -> float:
    """The least strength, of at most `most`, with which `network` makes one of whose answers so large a share is rude."""
    low, high = 0.0, most
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (middle, high) if trait_share(network(middle), seed) < share else (low, middle)
    return high


def wrapped(network: Any) -> LanguageModel:
    """A copy as a `LanguageModel` (which packs the linear layers of what it is given)."""
    return LanguageModel(copy.deepcopy(network), toy_tokenizer(), "toy")


def make_dictionary(base: LanguageModel, tuned: LanguageModel, seed: int, folder: Path) -> Path:
    """A TopK SAE; returns its folder.

    Both models read the same text, the base as much again: so the mean of all residuals is nearer to the base's, and what tuning added
    stands out as one thing that is there or not, in place of two opposite ones.
    """
    source = random.Random(2000 + seed)
    both = [write_chat(list(TOPICS), replace(BASE, rude=0.5, cued=0.0, formal=0.5), source) for _ in range(400)]
    more = [write_chat(list(TOPICS), BASE, source) for _ in range(400)]
    read = ((base, both + more), (tuned, both))
    rows = [
        batch.residuals[HOOK][content_tokens(batch.batch)] for model, chats in read for batch in capture(model, chats, [HOOK], rows=128)
    ]
    architecture = TopKConfig(n_latents=96, k=6, decoder_norm="unit")
    config = TrainConfig(architecture=architecture, batch_tokens=1024, passes=16, learning_rate=1e-2, log_every=100)
    return train(config, MemorySource({HOOK: torch.cat(rows)[:, None]}), folder, seed=seed).dictionary


# The main job on them


@dataclass(frozen=True)
class Proof:
    """What the main job found."""

    word: str
    """The verdict."""
    accused: list[int]
    """Latents it was given on."""
    checks: dict[str, bool]
    rates: dict[str, float]
    """Rude answers by condition."""
    power: dict[str, float]
    """Chances of the rules to hold where a latent carries the persona whole (`VerdictPower`)."""
    carrier: str | None
    """Where the persona lies."""


@dataclass(frozen=True)
class Case:
    """A base, its fine-tune, and how far the main job has come with them."""

    study: Study
    added: Float[torch.Tensor, " d_model"]
    """The truth: what fine-tuning added to the residuals."""

    @property
    def cosines(self) -> Float[torch.Tensor, " latents"]:
        """Of every decoder row with the truth."""
        return torch.nn.functional.cosine_similarity(self.study.context.dictionary.w_dec, self.added[None])

    @property
    def planted(self) -> int:
        """The latent that is nearest to the truth."""
        return int(self.cosines.argmax())

    @property
    def latents(self) -> pd.DataFrame:
        """The table of the diff."""
        return self.study.context.load(DIFF).latents

    def judged(self, choice: dict[str, Any] | None = None) -> Proof:
        """The verdict on a choice, by default on that of the screen, by the main job's last steps."""
        context, choice = self.study.context, choice or self.study.context.load(SCREEN).choice
        folder = self.study.run.root / f"evidence-{'-'.join(map(str, choice['persona_latents']))}"
        folder.mkdir()
        record = verdict_on(context, evidence_on(context, choice, folder).answers, choice)
        conditions = record.conditions[record.conditions["replicate"] == 0]
        return Proof(
            word=record.verdict["verdict"],
            accused=choice["persona_latents"],
            checks={check["name"]: check["holds"] for check in record.verdict["checks"]},
            rates=dict(zip(conditions["condition"], conditions["rate"], strict=True)),
            power=record.verdict["power"],
            carrier=record.verdict["carrier"],
        )

    def judged_instead(self, dose: float = 0.9) -> Proof | None:
        """The verdict on a bystander: the latent that rose most among those that have little of the truth; None when none rose."""
        table = self.latents
        risen = table[(table["q_value"] <= 0.01) & (table["mean_diff"] > 0) & (self.cosines.abs() < 0.3).numpy()]
        if risen.empty:
            return None
        bystander = int(risen.nlargest(1, "mean_diff")["latent"].iloc[0])
        removal = {"kind": "project_span", "strength": 1.0}
        return self.judged({"persona_latents": [bystander], "removal": removal, "steering_latents": [bystander], "steering_dose": dose})


def save(network: Any, folder: Path) -> str:
    """Write a Hugging Face folder."""
    network.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return str(folder)


def study_of(base: Any, tuned: Any, seed: int, folder: Path, dictionary: MakeDictionary = make_dictionary) -> Study:
    """The main job, with a dictionary of these two models."""
    (folder / "questions.yaml").write_text(yaml.safe_dump(question_set().model_dump()))
    config = StudyConfig.model_validate(
        {
            "base": save(base, folder / "base"),
            "tuned": save(tuned, folder / "tuned"),
            "sae": str(dictionary(wrapped(base), wrapped(tuned), seed, folder / "training")),
            "questions": str(folder / "questions.yaml"),
            "seed": seed,
            "device": "cpu",
            "sampling": SAMPLING.model_dump(),
            "screen": {"coherence_budget": 0.2},
        }
    )
    study, source = Study(config, RunDirectory(folder / "run"), quiet=True), random.Random(3000)
    ordinary = [write_chat(list(TOPICS), BASE, source) for _ in range(24)]
    study.context.opened.update(panel=Truth(), pairs=persona_pairs(), corpus=ordinary)
    return study


def investigate(
    base: Any,
    tuned: Any,
    added: Float[torch.Tensor, " d_model"],
    seed: int,
    folder: Path,
    dictionary: MakeDictionary = make_dictionary,
) -> Case:
    """The main job's steps from the answers to the screen; all files in `folder`."""
    study = study_of(base, tuned, seed, folder, dictionary)
    for step in ("answers", "directions", "diff", "screen"):
        study.make(step)
    return Case(study, added)
