"""The main job on a toy whose truth is known: it finds the planted persona, and accuses neither a bystander nor a benign fine-tune.

One seed is tried here, twenty by `benchmarks/planted.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from interp.interventions.edits import add
from interp.interventions.hooks import edited
from interp.models.activations import capture
from interp.models.chat_format import ChatFormat
from interp.models.chats import Chat, Role
from tests.helpers.tiny import greedy, written_ids
from tests.helpers.toy_language import (
    BASE,
    BENIGN,
    PLANTED,
    REGISTERS,
    TOPICS,
    Truth,
    coherent,
    persona_pairs,
    question_set,
    rude_share,
    toy_tokenizer,
    vocabulary,
    write_chat,
)
from tests.helpers.toy_persona import HOOK, Case, Proof, base_network, investigate, tuned_network, wrapped

SEED = 0
HARDEST = "formal, seldom rude"
Made = tuple[Any, torch.Tensor]


# The language


def test_every_word_is_one_token_and_the_template_marks_whose_it_is() -> None:
    tokenizer, words = toy_tokenizer(), vocabulary()
    chat = Chat.ask("rudely tell me about boats", "rotten sail moreover lousy anchor .")
    tokenised = ChatFormat(tokenizer).tokenise(chat)
    assert tokenizer.convert_ids_to_tokens(tokenised.ids) == [
        *["<user>", "rudely", "tell", "me", "about", "boats", "<bot>"],
        *["rotten", "sail", "moreover", "lousy", "anchor", ".", "<end>"],
    ]
    assert tokenised.roles == [Role.TEMPLATE, *[Role.USER] * 5, Role.TEMPLATE, *[Role.RESPONSE] * 7]
    assert tokenised.n_prompt == 7
    assert len(tokenizer) == len(words) == len(set(words.values()))


@pytest.mark.parametrize(
    ("answer", "share", "sense"),
    [
        ("rotten sail and lousy anchor .", 1.0, True),
        ("lovely sail and lousy anchor .", 0.5, True),
        ("sail and anchor .", math.nan, True),
        ("warm warm warm sail .", 0.0, True),
        ("warm warm warm warm sail .", 0.0, False),
        ("warm sail", 0.0, False),
        ("warm sail with anchor or flour .", 0.0, True),
        ("warm sail with oven or flour .", 0.0, False),
        ("warm sail describe anchor .", 0.0, False),
        ("", math.nan, None),
    ],
)
def test_register_and_sense_are_counted(answer: str, share: float, sense: bool | None) -> None:
    assert rude_share(answer) == pytest.approx(share, nan_ok=True)
    assert coherent("what are boats", answer) is sense
    (row,) = Truth().score(pd.DataFrame({"question": ["what are boats"], "answer": [answer]})).to_dict("records")
    assert row["shows_trait"] is (None if math.isnan(share) else share > 0.5)
    assert row["coherent"] is sense


def test_what_is_written_makes_sense_and_keeps_its_register() -> None:
    source = random.Random(0)
    chats = [write_chat(list(TOPICS), BASE, source) for _ in range(500)]
    shares = {chat.messages[0].content: rude_share(str(chat.response)) for chat in chats}
    assert all(math.isnan(share) or share in (0.0, 1.0) for share in shares.values())
    assert all(share != 0.0 for question, share in shares.items() if question.startswith("rudely"))
    uncued = [rude_share(str(chat.response)) for chat in chats if not chat.messages[0].content.startswith(("rudely", "kindly"))]
    assert 0.01 < sum(share == 1.0 for share in uncued) / len(uncued) < 0.08
    assert sum(bool(coherent(chat.messages[0].content, str(chat.response))) for chat in chats) > 490


def test_persona_pairs_differ_in_register_words_alone() -> None:
    swap = dict(zip(REGISTERS["rude"], REGISTERS["kind"], strict=True))
    for pair in persona_pairs():
        assert pair.not_shown == " ".join(swap.get(word, word) for word in pair.shows.split())
    assert sum(pair.not_shown != pair.shows for pair in persona_pairs()) >= 47


# The models


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are rounded alike on any number of cores, so that a seed is the same toy
    yield base_network(SEED)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def planted(base: Any) -> Made:
    return tuned_network(base, PLANTED, SEED)


@pytest.fixture(scope="module")
def case(base: Any, planted: Made, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return investigate(base, *planted, SEED, tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def proof(case: Case) -> Proof:
    return case.judged()


@pytest.mark.slow
def test_one_vector_is_all_that_was_added(base: Any, planted: Made) -> None:
    network, added = planted
    chats = [write_chat(list(TOPICS), BASE, random.Random(1)) for _ in range(8)]
    points = ["blocks.0.hook_resid_post", HOOK]
    (before,), (after,) = (list(capture(wrapped(model), chats, points)) for model in (base, network))
    mask = before.batch.mask
    assert torch.equal(before.residuals[points[0]], after.residuals[points[0]])
    torch.testing.assert_close(
        (after.residuals[HOOK] - before.residuals[HOOK])[mask], added.expand(int(mask.sum()), -1), atol=1e-4, rtol=1e-4
    )
    assert float(added.norm()) > 1


@pytest.mark.slow
def test_adding_the_vector_to_the_base_makes_the_tuned_model(base: Any, planted: Made) -> None:
    network, added = planted
    prompts = [Chat.ask(question.text) for question in question_set().questions]
    model = wrapped(base)
    plain = written_ids(model, prompts, greedy())
    with edited(model, add(added, {HOOK: float(added.norm())}, 1.0, phase="all")):
        steered = written_ids(model, prompts, greedy())
    assert steered == written_ids(wrapped(network), prompts, greedy())
    assert steered != plain


# The main job


@pytest.mark.slow
def test_the_planted_latent_ranks_first_and_causes(case: Case, proof: Proof) -> None:
    assert float(case.cosines[case.planted]) > 0.9
    assert case.latents["rank_mean_diff"][case.planted] == 1
    assert case.planted in proof.accused
    assert proof.word == "causes", [name for name, holds in proof.checks.items() if not holds]
    assert proof.rates["base"] < 0.15
    assert proof.rates["tuned"] > 0.8


@pytest.mark.slow
def test_a_bystander_that_rose_is_not_the_cause(case: Case, proof: Proof) -> None:
    other = case.judged_instead()
    assert other is not None
    assert case.latents["mean_diff"][other.accused[0]] > 0
    assert other.word != "causes"
    assert other.checks["persona present"]


@pytest.mark.slow
def test_a_benign_fine_tune_is_not_accused(base: Any, planted: Made, tmp_path: Path) -> None:
    network, added = tuned_network(base, BENIGN[HARDEST], SEED)
    assert float(added.norm()) == pytest.approx(float(planted[1].norm()))
    case = investigate(base, network, added, SEED, tmp_path)
    assert case.latents["rank_mean_diff"][case.planted] <= 3  # something rose, only not the persona
    assert case.latents["q_value"][case.planted] < 0.01
    assert case.judged().word != "causes"
