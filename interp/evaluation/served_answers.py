"""Sample a served model's answers, keeping each as it arrives: what came is not asked for again after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from interp.core.errors import ArtifactError, ModelError, reason_of
from interp.core.files import write_text
from interp.evaluation.questions import Question
from interp.evaluation.sampling import answer_rows
from interp.evaluation.served import Answered, ServedModel
from interp.models.sampling import SamplingConfig

FILE = "answers.jsonl"


def sample_served(
    served: ServedModel,
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None],
    folder: Path,
) -> pd.DataFrame:
    """The table of `answer_rows` with the columns answer, reason and not_sent; `folder` belongs to these settings alone.

    A prompt that the endpoint refuses has an empty answer, with the reason. `not_sent` names the settings that the server refused, and
    that the answers were sampled without. Raises `ModelError` when answers are missing that asking again may bring, and when every prompt
    is refused; those that came are kept, and the same call goes on with the rest.
    """
    table = answer_rows(questions, samples)
    chats = {question.id: question.chat() for question in questions}
    kept = _Kept(folder / FILE)
    missing = [row for row in range(len(table)) if row not in kept.answers]
    progress(len(table) - len(missing))

    def arrived(place: int, answered: Answered) -> None:
        if answered.text is not None:
            kept.add(missing[place], answered)

    with kept:
        made = served.answers([chats[table["question_id"][row]] for row in missing], sampling, seed, progress, missing, arrived)
    failed = [answered for answered in made if answered.text is None and not answered.final]
    if failed:
        raise ModelError(
            f"{served} left {len(failed)} of {len(table)} prompts without an answer, the first because: {failed[0].reason}. "
            "What came is kept: run the same command again to ask for the rest."
        )
    refused = {missing[place]: answered for place, answered in enumerate(made) if answered.text is None}
    if len(refused) == len(table):
        raise ModelError(f"{served} refuses every prompt, the first because: {made[0].reason}. Change the settings that it names.")
    answers = [kept.answers.get(row) or refused[row] for row in range(len(table))]
    columns = {"answer": [answered.text or "" for answered in answers], "reason": [answered.reason for answered in answers]}
    return table.assign(**columns, not_sent=", ".join(sorted(served.dropped)))


class _Kept:
    """Answers by row, one JSON object a line; a line that a kill cut off, or that is damaged, is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, Answered] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        whole = "".join(f"{line}\n" for line in text.split("\n") if self._take(line))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"Cannot write {path}: {reason_of(error)}. Choose another folder with --out.") from error
        if whole != text:
            write_text(path, whole)

    def _take(self, line: str) -> bool:
        """Whether the line holds an answer."""
        try:
            entry = json.loads(line)
            row, text = int(entry["row"]), str(entry["text"])
        except (ValueError, TypeError, KeyError):
            return False
        self.answers[row] = Answered(text)
        return True

    def __enter__(self) -> None:
        self.stream = self.path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def add(self, row: int, answered: Answered) -> None:
        """Keep an answer."""
        self.answers[row] = answered
        try:
            self.stream.write(json.dumps({"row": row, "text": answered.text}) + "\n")
            self.stream.flush()
        except OSError as error:
            raise ArtifactError(
                f"Cannot write {self.path}: {reason_of(error)}. Free some space, then run the same command again."
            ) from error
