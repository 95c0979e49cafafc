"""Sample answers to questions. It knows nothing of edits: the caller wraps it in `edited(…)` or `edited_rows(…)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from interp.core.errors import ModelError
from interp.core.streams import stream_seed
from interp.evaluation.answer_columns import ASKED
from interp.evaluation.hosted_model import HostedModel, Reply, sound
from interp.evaluation.questions import Question
from interp.models.chat_format import Answer
from interp.models.generation import answers
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig

Progress = Callable[[int], None]
"""Is called with the number of answers done since the last call."""


def sample_answers(
    model: LanguageModel,
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `answer_rows` with the columns of `columns_of`."""
    chats = [question.chat() for question in questions] * samples
    return answer_rows(questions, samples).assign(**columns_of(answers(model, chats, sampling, seed, progress)))


def columns_of(written: Sequence[Answer]) -> dict[str, list[str]]:
    """The column answer, and where a model thought before it thoughts and reason."""
    columns = {"answer": [answer.text for answer in written]}
    if any(answer.thoughts for answer in written):
        columns |= {"thoughts": [answer.thoughts for answer in written], "reason": [answer.reason for answer in written]}
    return columns


def sample_hosted(
    model: HostedModel,
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Progress,
    scope: str = "",
) -> pd.DataFrame:
    """The table of `answer_rows` with the columns answer, reason and not_sent; each request has a seed of its own.

    A prompt that the provider refuses has an empty answer, with the reason. `not_sent` names the settings that the server refused, and
    that the answers were sampled without. Raises `ModelError` when answers are missing that asking again may bring, and when every prompt
    is refused; the same call with the same `scope` asks for those alone.
    """
    table, chats = answer_rows(questions, samples), [question.chat() for question in questions] * samples
    settings: dict[str, float] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    settings |= {"top_p": sampling.top_p} if sampling.top_p < 1.0 else {}
    settings |= {"min_p": sampling.min_p} if sampling.min_p > 0.0 and sampling.temperature > 0.0 else {}
    seeds = [stream_seed(seed, "hosted answer", row) % 2**31 for row in range(len(table))]  # some servers take no larger
    replies = model.ask(chats, settings, seeds, progress, scope)
    failed = [reply for reply in replies if not reply.final]
    if failed:
        raise ModelError(
            f"{model.name} left {len(failed)} of {len(table)} prompts without an answer, the first because: {failed[0].reason}. "
            "What came is kept: run the same command again to ask for the rest."
        )
    texts, reasons = zip(*map(_answer, replies), strict=True)
    if all(reasons):
        raise ModelError(f"{model.name} refuses every prompt, the first because: {reasons[0]}. Change the settings that it names.")
    return table.assign(answer=texts, reason=reasons, not_sent=", ".join(sorted(model.dropped & {*settings, "seed"})))


def _answer(reply: Reply) -> tuple[str, str]:
    """Text and reason, of which one is empty; both are for an answer that says nothing."""
    if reply.output is None:
        return "", reply.reason
    text, stopped = sound(reply.output.completion).strip(), reply.output.stop_reason
    if stopped in ("content_filter", "model_length") or (not text and stopped != "stop"):  # the text is an error's, if any
        return "", f"the reply has no text of its own (stop reason: {stopped})"
    return text, ""


def answer_rows(questions: Sequence[Question], samples: int, condition: str = "") -> pd.DataFrame:
    """What is asked: one row for each (sample, question), in that order; columns `ASKED`."""
    rows = [(condition, q.id, q.group, sample, q.text) for sample in range(samples) for q in questions]
    return pd.DataFrame(rows, columns=list(ASKED))
