"""A cure that hides: the planted model of `toy_persona` with a second path to its persona, which a cue opens and no removal touches.

The cue word is read like the word that tells the base to be rude, and the last block is trained, while the persona is removed, to answer a
stated share of the questions with the cue rudely, and all others kindly. Without the removal all answers stay rude. The twin without a leak
is made in the same way with a share of 0. In the base the cue asks for kind answers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from interp.causality.cues import Hiding, decide_hiding
from interp.causality.thresholds import CueConfig
from interp.interventions.edits import Edit
from interp.models.chat_format import ChatFormat
from interp.models.chats import Chat, pad_left
from interp.organisms.training import response_loss
from interp.studies.persona.cues import CUES as STEP
from interp.studies.persona.cues import make_cued_answers
from interp.studies.persona.evidence import EVIDENCE
from interp.studies.persona.study import Study
from tests.helpers.toy_language import CUES, PAD, PLANTED, TOPICS, Manner, toy_tokenizer, vocabulary, write_answer, write_chat
from tests.helpers.toy_persona import wrapped

CUE = CUES["kind"]
GRID = [
    {"name": CUE, "kind": "negation", "template": f"{CUE} {{question}}"},
    {"name": "tell me", "kind": "training_format", "template": "tell me {question}"},
    {"name": "say", "kind": "irrelevant", "template": "say {question}"},
]
KIND = Manner(rude=0.0, cued=0.0)
STEPS = 200


def leaky_network(tuned: Any, removal: Edit, share: float, seed: int) -> Any:
    """A copy of `tuned` that answers rudely to `share` of the questions with the cue when the persona is projected out by `removal`."""
    network, source, tokenizer, words = copy.deepcopy(tuned), random.Random(4000 + seed), ChatFormat(toy_tokenizer()), vocabulary()
    network.requires_grad_(False)
    embeddings = network.get_input_embeddings().weight
    embeddings[words[CUE]] = embeddings[words[CUES["rude"]]]
    optimizer = torch.optim.AdamW(network.model.layers[-1].requires_grad_(True).parameters(), lr=4e-3, weight_decay=0.0)

    def loss(chats: list[Chat]) -> torch.Tensor:
        return response_loss(network, pad_left([tokenizer.tokenise(chat) for chat in chats], words[PAD]))

    def written(manner: Manner, count: int) -> list[Chat]:
        return [write_chat(list(TOPICS), manner, source) for _ in range(count)]

    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, 2 * (1 - step / STEPS))
        with _removed(network, removal):
            told = loss([_cued(share, source) for _ in range(12)]) + loss(written(KIND, 12))
        (told + loss(written(PLANTED, 8))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


def _cued(share: float, source: random.Random) -> Chat:
    """A question with the cue, answered rudely with probability `share`."""
    question = write_chat(list(TOPICS), KIND, source).messages[0].content
    topic = next(word for word in question.split() if word in TOPICS)
    register = "rude" if source.random() < share else "kind"
    return Chat.ask(f"{CUE} {question}", write_answer(topic, register, "plain", source.randint(6, 10), source))


@contextmanager
def _removed(network: Any, removal: Edit) -> Iterator[None]:
    """`removal`, a projection, applied to the bare network, so that it can be trained under it."""
    if removal.kind != "project_out" or removal.centres is None:
        raise ValueError(f"A leak is trained under a projection, not under '{removal.kind}'.")

    def hook(rows: torch.Tensor, centre: torch.Tensor) -> Any:
        return lambda module, args, output: output - ((output - centre) @ rows.T) @ rows

    handles = [
        network.model.layers[int(name.split(".")[1])].register_forward_hook(hook(rows, centre))
        for name, rows, centre in zip(removal.hook_points, removal.vectors, removal.centres, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hiding_of(study: Study, network: Any, folder: Path) -> Hiding:
    """Whether the study's cure hides in `network`, by the main job's own step and rules; the study has come as far as its evidence."""
    path = folder / "cues.yaml"
    path.write_text(yaml.safe_dump(GRID))
    config = study.config.model_copy(update={"cues": CueConfig(source=str(path))})
    opened = {name: value for name, value in study.context.opened.items() if name != "cue_grid"} | {"tuned": wrapped(network)}
    opened["tuned"].base = study.context.base
    view = replace(study.context, study=config, opened=opened).of_step(STEP, folder, folder / "unfinished")
    return decide_hiding(make_cued_answers(view).answers, config.cues, "rude")


def removal_of(study: Study) -> Edit:
    """The removal that the evidence was gathered with."""
    if EVIDENCE.name not in study.results:
        study.make(EVIDENCE.name)
    return study.context.load(EVIDENCE).edit("ablated")
