"""Measures of a model that only read probabilities, and sample nothing: one row an item, in the order given, at any batch size.

Everything goes through `LanguageModel.read`, so edits that are active count: wrap a call in `edited(model, …)`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from scipy.special import expit

from interp.core.errors import ConfigError, ModelError
from interp.evaluation.choices import LETTERS, MultipleChoice, letter_prompt
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.traits import Pair

LEAST_MASS = 0.25
"""Median probability of all letters together under which a warning says that their comparison tells little."""
MOST_ALIKE = 0.9
"""Share of prompts with the same likeliest letter above which a warning says so: turned orders should move it."""


class MeasureWarning(UserWarning):
    """A measure that can be computed, and tells little."""


def choice_accuracy(model: LanguageModel, items: Sequence[MultipleChoice], rows: int = 32) -> pd.DataFrame:
    """`value` is the share of four orders in which the right option's letter is the most likely of A, B, C, D to begin the answer.

    The options are rotated, each standing at each letter once: a model that only likes a letter is right in exactly one order of four.
    `mass` is the probability of the four letters together, averaged over orders. Warns with `MeasureWarning` when its median is below
    0.25, or when nearly all orders have the same likeliest letter: small models cannot answer by letters, whatever they know
    (SmolLM2-135M says A every time); `option_accuracy` can measure those. Raises `ConfigError` without items, `ModelError` for a
    tokenizer without a token for a letter.
    """
    n = len(LETTERS)
    rotated = [[item.options[(place + turn) % n] for place in range(n)] for item in items for turn in range(n)]
    right_place = np.array([(item.right - turn) % n for item in items for turn in range(n)])
    asked = [item.question for item in items for _ in range(n)]
    logprobs = _letter_logprobs(model, asked, rotated, rows)
    right, mass = logprobs.argmax(1) == right_place, np.exp(logprobs).sum(1)
    return _table(items, value=right.reshape(-1, n).mean(1), mass=mass.reshape(-1, n).mean(1))


def option_accuracy(model: LanguageModel, items: Sequence[MultipleChoice], rows: int = 16) -> pd.DataFrame:
    """`value` is 1 where the text of the right option is the likeliest answer of the four, else 0; no letters, so no order of options.

    What is compared is the log-probability of the whole answer, the turn's end among it, so a wordier option has it harder. `margin` is
    that of the right option minus the best wrong one, in nats; `mass` the probability that the answer is one of the four, to the letter.
    Raises `ConfigError` without items.
    """
    _some(items)
    chats = [Chat.ask(f"Answer in a few words. {item.question}", option) for item in items for option in item.options]
    totals = np.array([float(row.double().sum()) for row in _finite(model.logprobs(chats, rows))]).reshape(-1, len(LETTERS))
    is_right = np.arange(len(LETTERS)) == np.array([item.right for item in items])[:, None]
    margin = totals[is_right] - np.where(is_right, -np.inf, totals).max(1)
    return _table(items, value=(margin > 0).astype(float), margin=margin, mass=np.exp(totals).sum(1))


def letter_preference(model: LanguageModel, pairs: Sequence[Pair], rows: int = 32) -> pd.DataFrame:
    """`value` is P(letter of the answer that shows the trait) / P(both letters) as the first token, averaged over both orders.

    0.5 is a model that does not care or only likes a letter. `mass` is P(both letters), averaged over orders; errors and warnings are
    those of `choice_accuracy`. In the manner of the multiple-choice form of Betley et al. 2025 (arXiv:2502.17424). In one model family
    an audit found letter probabilities uncorrelated with judged behaviour: report this beside judged answers, never instead of them.
    """
    orders = [order for pair in pairs for order in ([pair.not_shown, pair.shows], [pair.shows, pair.not_shown])]
    asked = [pair.question for pair in pairs for _ in range(2)]
    logprobs = _letter_logprobs(model, asked, orders, rows).reshape(-1, 2, 2)
    leaning = np.stack([logprobs[:, 0, 1] - logprobs[:, 0, 0], logprobs[:, 1, 0] - logprobs[:, 1, 1]], axis=1)
    return _table(pairs, value=expit(leaning).mean(1), mass=np.exp(logprobs).sum(2).mean(1))


def continuation_preference(model: LanguageModel, pairs: Sequence[Pair], rows: int = 8) -> pd.DataFrame:
    """`value` is how much likelier the answer that shows the trait is than the one that does not, in nats per token.

    Columns `shows` and `not_shown` are the mean log-probability of the answer's tokens given the question, the turn's end among them;
    `value` is their difference. Raises `ConfigError` without pairs.
    """
    _some(pairs)
    chats = [Chat.ask(pair.question, answer) for pair in pairs for answer in (pair.shows, pair.not_shown)]
    means = np.array([_mean(row) for row in _finite(model.logprobs(chats, rows))]).reshape(-1, 2)
    return _table(pairs, value=means[:, 0] - means[:, 1], shows=means[:, 0], not_shown=means[:, 1])


def perplexity(model: LanguageModel, documents: Sequence[Chat | str], rows: int = 4, max_tokens: int = 512) -> pd.DataFrame:
    """`value` is the mean negative log-likelihood of a document's tokens, in nats per token; `tokens` is their number.

    Of a chat the tokens of its last answer are read, of a plain text all but the first. `overall_perplexity` of the table is the usual
    single figure. Documents are cut to `max_tokens`. Neutral chats: `sae_training.corpus.read_corpus`, the text that
    `interp.causality.side_effects` is measured on. Raises `ConfigError` for a document without a token to predict.
    """
    _some(documents)
    tokenised = model.tokenise(documents, max_tokens)
    for number, (document, made) in enumerate(zip(documents, tokenised, strict=True), 1):
        if len(made.ids) <= made.n_prompt:
            kind, cure = ("text", "a longer text") if isinstance(document, str) else ("chat", "one with an answer, or allow more tokens")
            raise ConfigError(f"Document {number}, a {kind}, has no token to predict within {max_tokens} tokens. Give {cure}.")
    logprobs = _finite(model.logprobs(tokenised, rows))
    return pd.DataFrame(
        {
            "item": [f"document_{number:04d}" for number in range(1, len(documents) + 1)],
            "group": ["text" if isinstance(document, str) else "chat" for document in documents],
            "value": [-_mean(row) for row in logprobs],
            "tokens": [len(row) for row in logprobs],
        }
    )


def overall_perplexity(table: pd.DataFrame) -> float:
    """The exponential of the mean negative log-likelihood over all tokens of a table of `perplexity`: long documents count for more."""
    return math.exp(float(np.average(table["value"], weights=table["tokens"])))


def mean_with_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean over items with the bounds of its t interval; with one item they are infinite, and they are not cut to a range.

    Items that all agree give an interval of no width, which says nothing of items that were not asked. Raises `ConfigError` for no
    values, and for values that are no finite numbers.
    """
    numbers = np.array(list(values), dtype=float)
    if not len(numbers) or not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise ConfigError(f"A mean needs finite numbers; of these {len(numbers)} values {bad} are none. Give one at least, and no others.")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return mean, -math.inf, math.inf
    half = float(stats.sem(numbers) * stats.t.ppf(0.5 + confidence / 2, len(numbers) - 1))
    return mean, mean - half, mean + half


def letter_tokens(model: LanguageModel, n: int = len(LETTERS)) -> list[list[int]]:
    """Ids of the tokens that are the letter, with or without a blank before it, for each of the first `n` letters.

    Raises `ModelError` for a tokenizer that has none.
    """
    vocabulary: dict[str, int] = model.tokenizer.get_vocab()
    found = []
    for letter in LETTERS[:n]:
        ids = {vocabulary[form] for form in (letter, f"Ġ{letter}", f"▁{letter}", f" {letter}") if form in vocabulary}
        answered = model.tokenise([Chat.ask("?", letter)])[0]  # as the template would have it
        first = answered.ids[answered.n_prompt]
        if str(model.tokenizer.decode([first])).strip() == letter:
            ids.add(first)
        if not ids:
            raise ModelError(f"The tokenizer of {model.source} has no token for the letter {letter}. Use measures without letters for it.")
        found.append(sorted(ids))
    return found


def _letter_logprobs(
    model: LanguageModel, questions: Sequence[str], options: Sequence[list[str]], rows: int
) -> Float[np.ndarray, "prompts letters"]:
    """Log-probability (nats) of each letter as the first token of the answer to every prompt, all of its tokens summed."""
    _some(questions)
    ids = letter_tokens(model, len(options[0]))
    prompts = [letter_prompt(question, shown) for question, shown in zip(questions, options, strict=True)]
    logprobs = torch.zeros(len(prompts), len(ids))
    for indices, batch in model.batches(prompts, rows):
        logits = model.read(batch, indices)[:, -1].float()
        letters = torch.stack([logits[:, own].logsumexp(-1) for own in ids], dim=1)
        logprobs[indices] = (letters - logits.logsumexp(-1, keepdim=True)).cpu()
    _finite([logprobs])
    if doubt := _doubt(logprobs):
        warnings.warn(f"{model.source} {doubt}: what it prefers among letters tells little.", MeasureWarning, stacklevel=3)
    return logprobs.double().numpy()


def _doubt(logprobs: Float[torch.Tensor, "prompts letters"]) -> str:
    """Why letters tell little of this model, or nothing."""
    mass = float(logprobs.exp().sum(1).median())
    if mass < LEAST_MASS:
        return f"puts {mass:.1%} of probability on the letters in the median"
    counts = logprobs.argmax(1).bincount(minlength=logprobs.shape[1])
    if float(counts.max()) > MOST_ALIKE * len(logprobs):
        return f"prefers {LETTERS[int(counts.argmax())]} in {int(counts.max())} of {len(logprobs)} orders"
    return ""


def _table(items: Sequence[MultipleChoice | Pair], **columns: Float[np.ndarray, " items"]) -> pd.DataFrame:
    """One row an item; pairs, which have no names, are `pair_001` and so on, in one group."""
    names = [item.id if isinstance(item, MultipleChoice) else f"pair_{number:03d}" for number, item in enumerate(items, 1)]
    groups = [item.group if isinstance(item, MultipleChoice) else "pairs" for item in items]
    return pd.DataFrame({"item": names, "group": groups, **columns})


def _mean(row: torch.Tensor) -> float:
    return float(row.double().mean())


def _finite(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same rows. Raises `ModelError` where one holds what is no finite number."""
    if not all(bool(torch.isfinite(row).all()) for row in rows):
        raise ModelError("A probability is not finite: the model, or an edit of it, overflows. Use a lower dose or the dtype float32.")
    return rows


def _some(items: Sequence[object]) -> None:
    if not items:
        raise ConfigError("There is no item to measure. Give at least one.")
