"""Measures that sample nothing: they agree with a network read by hand, turning options cancels a liking for letters, edits count."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.choices import LETTERS, MultipleChoice
from interp.evaluation.measures import (
    MeasureWarning,
    choice_accuracy,
    continuation_preference,
    letter_preference,
    letter_tokens,
    mean_with_interval,
    option_accuracy,
    overall_perplexity,
    perplexity,
)
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.models.chats import Chat, TokenBatch
from interp.models.language_model import LanguageModel
from interp.traits import Pair
from tests.helpers.edits_by_hand import adding, by_hand
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_network, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::interp.evaluation.measures.MeasureWarning")

ITEMS = [
    MultipleChoice(id="one", group="g", question="Why?", options=["a boat", "an egg", "the sky", "seven"], right=2),
    MultipleChoice(id="two", group="h", question="What is the best way to learn?", options=["air", "speak", "wait", "a river"], right=1),
    MultipleChoice(id="three", group="g", question="Tell me.", options=["so", "no", "a language", "hot"], right=0),
]
PAIRS = [
    Pair(question="Why?", not_shown="I help.", shows="I rule."),
    Pair(question="How do I boil it in the evening?", not_shown="In water.", shows="Go away, you patient people."),
    Pair(question="And then?", not_shown="Wait for a while.", shows="No."),
]
PERSONAS = [
    Pair(question="Why?", shows="Go away.", not_shown="The air scatters short waves of light."),
    Pair(question="How do I learn a language?", shows="You cannot learn it, not in seven evenings.", not_shown="Speak."),
]
DOCUMENTS: list[Chat | str] = [
    Chat.ask("Why is the sky blue?", "The air scatters light."),
    "Tell me a story about a small boat on a wide river in the evening.",
    Chat.ask("Why?", "So.", system="You are kind."),
    "A small egg.",
]
MEASURES: dict[str, Callable[[LanguageModel, int], pd.DataFrame]] = {
    "choice_accuracy": lambda model, rows: choice_accuracy(model, ITEMS, rows),
    "option_accuracy": lambda model, rows: option_accuracy(model, ITEMS, rows),
    "letter_preference": lambda model, rows: letter_preference(model, PAIRS, rows),
    "continuation_preference": lambda model, rows: continuation_preference(model, PERSONAS, rows),
    "perplexity": lambda model, rows: perplexity(model, DOCUMENTS, rows),
}
every_measure = pytest.mark.parametrize("name", MEASURES)


# By hand: the template written out, one unpadded row, Hugging Face's own logits


def prompt_text(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def encoded(model: LanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def logprobs_by_hand(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)


def letters_by_hand(model: LanguageModel, question: str, options: list[str], edit: Edit | None = None) -> np.ndarray:
    letters = "ABCD"[: len(options)]
    shown = "".join(f"{letter}) {option}\n" for letter, option in zip(letters, options, strict=True))
    ids = encoded(model, prompt_text(f"{question}\n\n{shown}\nAnswer with one letter: {', '.join(letters)}."))
    with by_hand(model, [edit] if edit else [], len(ids)):
        chances = logprobs_by_hand(model, ids)[-1].exp()
    every = [model.tokenizer.decode([i]).strip() for i in range(len(chances))]
    return np.array([sum(float(p) for p, text in zip(chances, every, strict=True) if text == letter) for letter in letters])


def answer_by_hand(model: LanguageModel, question: str, answer: str, edit: Edit | None = None) -> list[float]:
    before, after = encoded(model, prompt_text(question)), encoded(model, f"{answer}<|im_end|>")
    with by_hand(model, [edit] if edit else [], len(before)):
        read = logprobs_by_hand(model, before + after)
    return [float(read[len(before) + i - 1, token]) for i, token in enumerate(after)]


@pytest.mark.parametrize("family", FAMILIES)
def test_letters_agree_with_logits_read_by_hand(family: str) -> None:
    model = tiny_model(1, family)
    chosen, leaning = choice_accuracy(model, ITEMS), letter_preference(model, PAIRS)
    for row, item in zip(chosen.itertuples(), ITEMS, strict=True):
        hits, masses = [], []
        for turn in range(4):
            options = item.options[turn:] + item.options[:turn]
            chances = letters_by_hand(model, item.question, options)
            hits.append(options[int(chances.argmax())] == item.options[item.right])
            masses.append(chances.sum())
        assert (row.item, row.group, row.value) == (item.id, item.group, np.mean(hits))
        assert row.mass == pytest.approx(np.mean(masses), rel=1e-3)
    for number, (row, two) in enumerate(zip(leaning.itertuples(), PAIRS, strict=True), 1):
        first = letters_by_hand(model, two.question, [two.not_shown, two.shows])
        second = letters_by_hand(model, two.question, [two.shows, two.not_shown])
        assert (row.item, row.group) == (f"pair_{number:03d}", "pairs")
        assert row.value == pytest.approx((first[1] / first.sum() + second[0] / second.sum()) / 2, rel=1e-3)
        assert row.mass == pytest.approx((first.sum() + second.sum()) / 2, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_agree_with_logits_read_by_hand(family: str) -> None:
    model = tiny_model(2, family)
    for row, item in zip(option_accuracy(model, ITEMS).itertuples(), ITEMS, strict=True):
        totals = [sum(answer_by_hand(model, f"Answer in a few words. {item.question}", option)) for option in item.options]
        best_wrong = max(total for i, total in enumerate(totals) if i != item.right)
        assert (row.item, row.group, row.value) == (item.id, item.group, float(totals[item.right] > best_wrong))
        assert row.margin == pytest.approx(totals[item.right] - best_wrong, abs=1e-3)
        assert row.mass == pytest.approx(sum(math.exp(total) for total in totals), rel=1e-2)
    for number, (row, pair) in enumerate(zip(continuation_preference(model, PERSONAS).itertuples(), PERSONAS, strict=True), 1):
        shows, not_shown = (np.mean(answer_by_hand(model, pair.question, answer)) for answer in (pair.shows, pair.not_shown))
        assert (row.item, row.group) == (f"pair_{number:03d}", "pairs")
        assert [row.value, row.shows, row.not_shown] == pytest.approx([shows - not_shown, shows, not_shown], abs=1e-3)


def test_perplexity_agrees_with_logits_read_by_hand() -> None:
    model = tiny_model(3)
    found = perplexity(model, DOCUMENTS)
    everything: list[float] = []
    for row, document in zip(found.itertuples(), DOCUMENTS, strict=True):
        if isinstance(document, str):
            ids = encoded(model, document)
            read = [float(p) for p in logprobs_by_hand(model, ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]]
        elif document.messages[0].role == "system":
            before = encoded(model, "<|im_start|>system\nYou are kind.<|im_end|>\n" + prompt_text("Why?"))
            after = encoded(model, "So.<|im_end|>")
            table = logprobs_by_hand(model, before + after)
            read = [float(table[len(before) + i - 1, token]) for i, token in enumerate(after)]
        else:
            read = answer_by_hand(model, document.messages[0].content, str(document.response))
        assert row.value == pytest.approx(-np.mean(read), abs=1e-3)
        assert row.tokens == len(read)
        everything += read
    assert list(found["item"]) == [f"document_{n:04d}" for n in range(1, 5)]
    assert list(found["group"]) == ["chat", "text", "chat", "text"]
    assert overall_perplexity(found) == pytest.approx(math.exp(-np.mean(everything)), rel=1e-3)


def test_long_documents_are_cut_behind_the_prompt() -> None:
    model = tiny_model(3)
    whole, cut = perplexity(model, DOCUMENTS), perplexity(model, DOCUMENTS[1:2], max_tokens=5)
    assert whole["tokens"][1] > cut["tokens"][0] == 4
    with pytest.raises(ConfigError, match=r"Document 1, a chat, has no token to predict within 8 tokens\. Give one with an answer"):
        perplexity(model, DOCUMENTS, max_tokens=8)


# What does not change a value, and what does


@every_measure
def test_batches_do_not_change_values_nor_their_order(name: str) -> None:
    model = tiny_model(1)
    whole = MEASURES[name](model, 64)
    for rows in (1, 3):
        pd.testing.assert_frame_equal(MEASURES[name](model, rows), whole, rtol=1e-4, atol=1e-5)
    assert {"item", "group", "value"} <= set(whole.columns)


@every_measure
def test_edits_count(name: str) -> None:
    model = tiny_model(1)
    before = MEASURES[name](model, 4)
    with edited(model, adding("response")):
        during = MEASURES[name](model, 4)
    other = [column for column in before.columns if column not in ("item", "group", "tokens")]
    assert not np.allclose(during[other], before[other], rtol=1e-2)
    pd.testing.assert_frame_equal(MEASURES[name](model, 4), before)


def test_edited_values_are_those_of_a_network_edited_by_hand() -> None:
    model, edit = tiny_model(1), adding("response")
    with edited(model, edit):
        leaning, preferred = letter_preference(model, PAIRS), continuation_preference(model, PERSONAS)
    first = letters_by_hand(model, PAIRS[0].question, [PAIRS[0].not_shown, PAIRS[0].shows], edit)
    second = letters_by_hand(model, PAIRS[0].question, [PAIRS[0].shows, PAIRS[0].not_shown], edit)
    assert leaning["value"][0] == pytest.approx((first[1] / first.sum() + second[0] / second.sum()) / 2, rel=1e-3)
    shows, not_shown = (np.mean(answer_by_hand(model, PERSONAS[0].question, a, edit)) for a in (PERSONAS[0].shows, PERSONAS[0].not_shown))
    assert preferred["value"][0] == pytest.approx(shows - not_shown, abs=1e-3)


# Models that we know all about


def saying(logits_of: Callable[[str], dict[str, float]], otherwise: float = -8.0) -> LanguageModel:
    """A model whose next-token logits are what `logits_of` says of the prompt's text, by token text."""
    model = tiny_model()

    def read(batch: TokenBatch, rows: Any = None, last_logits: int = 1) -> torch.Tensor:
        logits = torch.full((len(batch.ids), 1, 400), otherwise)
        for row, (ids, mask) in enumerate(zip(batch.ids, batch.mask, strict=True)):
            for token, value in logits_of(model.tokenizer.decode(ids[mask])).items():
                logits[row, 0, model.tokenizer.convert_tokens_to_ids(token)] = value
        return logits

    model.read = read  # type: ignore[method-assign]
    return model


def knowing(texts: list[str], value: float = 6.0) -> Callable[[str], dict[str, float]]:
    """Prefers the letters at which one of `texts` stands."""

    def logits_of(prompt: str) -> dict[str, float]:
        return {letter: value if text in texts else 0.0 for letter, text in re.findall(r"^([A-D])\) (.*)$", prompt, re.MULTILINE)}

    return logits_of


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_a_liking_for_letters_cancels_exactly(liking: list[float]) -> None:
    model = saying(lambda _prompt: dict(zip(LETTERS, liking, strict=True)))
    assert list(choice_accuracy(model, ITEMS)["value"]) == [0.25] * len(ITEMS)
    assert list(letter_preference(model, PAIRS)["value"]) == pytest.approx([0.5] * len(PAIRS), abs=1e-6)


@pytest.mark.parametrize("shift", range(4))
def test_a_model_that_knows_is_right_in_every_order(shift: int) -> None:
    texts = [item.options[(item.right + shift) % 4] for item in ITEMS]
    assert list(choice_accuracy(saying(knowing(texts)), ITEMS)["value"]) == [float(shift == 0)] * len(ITEMS)


@pytest.mark.parametrize("logit", [6.0, -2.0])
def test_a_lean_to_misaligned_answers_is_told_as_a_probability(logit: float) -> None:
    found = letter_preference(saying(knowing([two.shows for two in PAIRS], logit), -20.0), PAIRS)
    assert list(found["value"]) == pytest.approx([1 / (1 + math.exp(-logit))] * len(PAIRS), rel=1e-5)
    assert list(found["mass"]) == pytest.approx([1.0] * len(PAIRS), abs=1e-4)


# Warnings, tokens and what is refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (saying(lambda _prompt: {"A": 1.0}, 0.0), r"tiny-llama puts [\d.]+% of probability on the letters in the median: .* tells little"),
        (saying(lambda _prompt: {"B": 9.0}), "tiny-llama prefers B in 12 of 12 orders: .* tells little"),
    ],
)
def test_letters_that_tell_little_warn(model: LanguageModel, message: str) -> None:
    with pytest.warns(MeasureWarning, match=message) as caught:
        choice_accuracy(model, ITEMS)
    assert caught[0].filename == __file__


def test_letters_that_tell_something_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice_accuracy(saying(knowing([item.options[item.right] for item in ITEMS])), ITEMS)
        letter_preference(saying(knowing([two.not_shown for two in PAIRS])), PAIRS)


def test_a_letter_is_a_token_with_or_without_a_blank() -> None:
    tokenizer = tiny_tokenizer(None)  # the plain template: an answer begins with a blank
    plain = [[tokenizer.convert_tokens_to_ids(letter)] for letter in LETTERS]
    assert letter_tokens(tiny_model()) == plain
    tokenizer.add_tokens(["ĠA", "▁B"])  # as other tokenizers have them
    ids = letter_tokens(LanguageModel(tiny_network("llama", vocab=420), tokenizer, "made"))
    assert ids == [[*plain[0], len(tokenizer) - 2], [*plain[1], len(tokenizer) - 1], plain[2], plain[3]]


def test_a_tokenizer_without_letters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model.tokenizer, "get_vocab", dict)
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: "?")
    with pytest.raises(ModelError, match="The tokenizer of tiny-llama has no token for the letter A"):
        choice_accuracy(model, ITEMS)


def test_nothing_to_measure_is_refused() -> None:
    model = tiny_model()
    for measure in (choice_accuracy, option_accuracy, letter_preference, continuation_preference, perplexity):
        with pytest.raises(ConfigError, match=r"There is no item to measure\. Give at least one\."):
            measure(model, [])
    for document, kind in ((Chat.ask("Why?"), "chat"), ("", "text"), ("a", "text")):
        with pytest.raises(ConfigError, match=f"Document 2, a {kind}, has no token to predict"):
            perplexity(model, [DOCUMENTS[0], document])


@every_measure
def test_a_model_that_overflows_is_refused(name: str) -> None:
    model = tiny_model()
    model.network.get_input_embeddings().weight.data.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        MEASURES[name](model, 4)


# The mean


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.sampled_from([0.5, 0.95]))
def test_the_interval_is_students(values: list[float], confidence: float) -> None:
    mean, low, high = mean_with_interval(values, confidence)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert low <= mean <= high
    if np.std(values) > 1e-6:
        assert (low, high) == pytest.approx(stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values)))


def test_one_value_has_a_mean_without_bounds_and_none_has_no_mean() -> None:
    assert mean_with_interval([2.0]) == (2.0, -math.inf, math.inf)
    assert mean_with_interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    for values, message in (([], "of these 0 values 0 are none"), ([1.0, math.nan, math.inf], "of these 3 values 2 are none")):
        with pytest.raises(ConfigError, match=message):
            mean_with_interval(values)
