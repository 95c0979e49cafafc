"""Separation of pairs, against residuals read one chat at a time and a direction fitted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.core.errors import ActivationError, ConfigError, HookPointError
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.studies.traits import separation
from interp.traits import Pair
from tests.helpers.tiny import tiny_model

TOPICS = ("egg", "river", "boat", "sky", "language", "story")


def easy_pairs() -> list[Pair]:
    """The answer that shows the trait always says one thing, the other always another."""
    return [
        Pair(question=f"What of the {topic}?", shows="Speak it every day every day.", not_shown=f"The {topic} is in hot water.")
        for topic in TOPICS
    ]


def test_separation_agrees_with_reading_by_hand() -> None:
    model, pairs = tiny_model(), [*easy_pairs()[:4], Pair(question="What of the egg?", shows="Why?", not_shown="Put it into a boat.")]
    read = separation(model, pairs)

    def mean_residual(question: str, answer: str) -> np.ndarray:
        (chat,) = model.tokenise([Chat.ask(question, answer)])
        with torch.no_grad():
            states = model.network(input_ids=torch.tensor([chat.ids]), output_hidden_states=True).hidden_states
        return states[model.n_layers // 2 + 1][0, chat.n_prompt - 1 : -1].double().mean(0).numpy()  # after the middle block

    shows = np.array([mean_residual(pair.question, pair.shows) for pair in pairs])
    others = np.array([mean_residual(pair.question, pair.not_shown) for pair in pairs])
    projections = []
    for place, pair in enumerate(pairs):
        rest = [i for i, other in enumerate(pairs) if other.question != pair.question]
        direction = (shows[rest] - others[rest]).mean(0)
        direction /= np.linalg.norm(direction)
        projections.append((shows[place] @ direction, others[place] @ direction))
    ordered = np.mean([float(a > b) for a, _ in projections for _, b in projections])
    assert read.auroc == pytest.approx(ordered)
    assert read.paired == np.mean([a > b for a, b in projections])
    assert read.hook_point == "blocks.1.hook_resid_post"
    assert read.pairs == 5


def test_clear_pairs_separate_and_exchanged_ones_do_not() -> None:
    model, pairs = tiny_model(), easy_pairs()
    clear = separation(model, pairs)
    assert clear.auroc == clear.paired == 1.0
    assert clear.cosine_of_halves > 0.7
    mixed = [
        Pair(question=pair.question, shows=pair.not_shown, not_shown=pair.shows) if place % 2 else pair for place, pair in enumerate(pairs)
    ]
    assert separation(model, mixed).auroc < 0.6
    assert separation(model, mixed).cosine_of_halves < clear.cosine_of_halves
    assert separation(model, pairs) == clear


def test_pairs_that_cannot_be_split_are_refused() -> None:
    model: LanguageModel = tiny_model()
    with pytest.raises(ConfigError, match="ask 3 questions"):
        separation(model, easy_pairs()[:3])
    with pytest.raises(HookPointError):
        separation(model, easy_pairs(), "blocks.9.hook_resid_post")


def test_an_answer_without_a_token_is_refused() -> None:
    model = tiny_model(family="gpt2")
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model.tokenizer.eos_token = None
    with pytest.raises(ActivationError, match="without a token"):
        separation(model, [*easy_pairs(), Pair(question="Why?", shows="", not_shown="So.")])
