"""Sample answers under many edits at once: every (condition, sample, question) is a row, and rows go in full batches."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from interp import __version__
from interp.core.errors import ArtifactError, EditError, ModelError, reason_of
from interp.core.files import read_json, write_json
from interp.core.fingerprints import content_key
from interp.evaluation.questions import Question
from interp.evaluation.sampling import answer_rows
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited_rows
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig

PLAN_FILE = "plan.json"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "cublas_status_alloc_failed")


@dataclass(frozen=True)
class Condition:
    """A name and what is done to the model under it: one edit, several in order, or nothing."""

    name: str
    edit: Edit | tuple[Edit, ...] | None = None
    asked: tuple[str, ...] | None = None
    """Ids of the questions asked under it; None: all."""
    samples: int | None = None
    """Answers a question under it; None: as many as the sweep says."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in order."""
        return self.edit if isinstance(self.edit, tuple) else () if self.edit is None else (self.edit,)


def sweep(
    model: LanguageModel,
    conditions: Sequence[Condition],
    questions: Sequence[Question],
    samples: int,
    sampling: SamplingConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Answers under all conditions, in the form of `sample_answers`: conditions in order, each with all samples of its questions.

    Rows with the same prompt and the same edit of it stand together, so that it is read once. With `folder` every finished
    batch is kept as a parquet part, and the same call resumes where it was interrupted, with the same result to the byte. What is
    done to the model outside of `conditions` is not seen there. When memory runs out the batches are halved, with a warning; smaller
    batches may round otherwise.

    Raises `EditError` for a repeated condition name, a question that is not there, or an edit that touches no token of a batch,
    `ArtifactError` when `folder` holds another sweep, and `ModelError` when there is no memory for a single row.
    """
    names = [condition.name for condition in conditions]
    if len(set(names)) < len(names):
        raise EditError(f"Condition names must be unique: {', '.join(names)}.")
    rows_of = [_rows(condition, questions, samples) for condition in conditions]
    table = pd.concat([own for own, _ in rows_of], ignore_index=True) if rows_of else answer_rows([], 0)
    streams = [stream for _, own in rows_of for stream in own]
    asked = {question.id: question.chat() for question in questions}
    chats = [asked[name] for name in table["question_id"]]
    edits = [condition.edit or None for condition, (_, own) in zip(conditions, rows_of, strict=True) for _ in own]
    changes = [change for condition, (_, own) in zip(conditions, rows_of, strict=True) for change in [_prompt_change(condition)] * len(own)]
    ids = {name: tuple(tokenised.ids) for name, tokenised in zip(asked, model.tokenise(list(asked.values())), strict=True)}
    prompts = [ids[name] for name in table["question_id"]]
    batches = plan_batches(prompts, changes, sampling.batch_rows)

    def ask(rows: Sequence[int]) -> list[str]:
        together = sampling.model_copy(update={"batch_rows": len(rows)})
        with _edited_rows(model, [edits[row] for row in rows]):
            return generate(model, [chats[row] for row in rows], together, seed, streams=[streams[row] for row in rows])

    made = {
        "version": __version__,
        "model": {"source": model.source, "dtype": str(model.dtype), "device": model.device.type, "weights": _sampled_weights(model)},
        "conditions": [[c.name, c.asked, c.samples, *(edit.key for edit in c.edits)] for c in conditions],
        "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in questions],
        "prompts": [list(prompt) for prompt in ids.values()],
        "samples": samples,
        "sampling": sampling.model_dump(mode="json"),
        "seed": seed,
        "batches": batches,
    }
    answers = [""] * len(table)
    within_memory = _WithinMemory(ask, model.device, sampling.batch_rows)
    with nullcontext() if folder is None else _Parts.open(folder, made) as parts:
        for number, rows in enumerate(batches):
            written = parts.read(number, rows) if parts else None
            if written is None:
                written = within_memory(rows)
                if parts:
                    parts.write(number, table.iloc[rows].assign(answer=written))
            for row, answer in zip(rows, written, strict=True):
                answers[row] = answer
            if progress:
                progress(len(rows))
    return table.assign(answer=answers)


def _rows(condition: Condition, questions: Sequence[Question], samples: int) -> tuple[pd.DataFrame, list[int]]:
    """What is asked under a condition, and the stream of random numbers of each row: that of its question and sample in all conditions."""
    unknown = sorted(set(condition.asked or ()) - {question.id for question in questions})
    if unknown:
        raise EditError(f"The condition '{condition.name}' asks {', '.join(unknown)}, which is none of the questions. Correct the ids.")
    places = [place for place, question in enumerate(questions) if condition.asked is None or question.id in condition.asked]
    repeats = condition.samples or samples
    table = answer_rows([questions[place] for place in places], repeats, condition.name)
    return table, [sample * len(questions) + place for sample in range(repeats) for place in places]


def plan_batches(prompts: Sequence[tuple[int, ...]], changes: Sequence[str], rows: int) -> list[list[int]]:
    """Row numbers in batches of `rows`, all full but the last: prompts of like length, the same prompt, the same change of it together.

    `prompts` are token ids; `changes` say what is done to them.
    """
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row], changes[row], row))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def _prompt_change(condition: Condition) -> str:
    """What the edits do to the prompt: nothing as long as they begin at the response."""
    return " ".join(edit.key for edit in condition.edits if edit.phase != "response")


@contextmanager
def _edited_rows(model: LanguageModel, edits: Sequence[Edit | tuple[Edit, ...] | None]) -> Iterator[None]:
    if all(edit is None for edit in edits):
        yield
        return
    with edited_rows(model, edits):
        yield


class _WithinMemory:
    """Asks a batch whole, or in halves, quarters, … from the moment that memory ran out."""

    def __init__(self, ask: Callable[[Sequence[int]], list[str]], device: torch.device, most: int) -> None:
        self.ask, self.device, self.most, self.warned = ask, device, most, False

    def __call__(self, rows: Sequence[int]) -> list[str]:
        answers: list[str] = []
        while len(answers) < len(rows):
            part = rows[len(answers) : len(answers) + self.most]
            try:
                answers += self.ask(part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ModelError(
                        "Memory does not suffice for a single row. Free some, ask for fewer new tokens, or take a smaller model or dtype."
                    ) from error
                self.most = -(-len(part) // 2)
            else:
                continue
            self._free(len(part))  # only here have the frames of the failed pass let go of their tensors
        return answers

    def _free(self, failed: int) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"Memory ran out with {failed} rows in a batch; the sweep continues with {self.most}, and halves that as often as it must. "
                f"Set batch_rows to {self.most} to begin so.",
                RuntimeWarning,
                stacklevel=4,
            )


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    )


class _Parts:
    """Finished batches on disk: `plan.json` says of what, `part-NNNNN.parquet` holds the rows of a batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextmanager
    def open(cls, folder: Path, made: dict[str, Any]) -> Iterator[_Parts]:
        """Hold the folder alone; raises `ArtifactError` when another process does, or when it holds another sweep."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"Cannot make {folder}: {reason_of(error)}. Choose another folder.") from error
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(f"Another sweep holds {folder}. Wait for it to end, or choose another folder.") from error
        try:
            cls._check_plan(folder, json.loads(json.dumps(made)))
            yield cls(folder)
        finally:
            lock.release()

    @staticmethod
    def _check_plan(folder: Path, made: dict[str, Any]) -> None:
        path = folder / PLAN_FILE
        if not path.exists():
            if any(folder.glob("part-*.parquet")):
                raise ArtifactError(f"{folder} holds parts of a sweep without its {PLAN_FILE}. Use another folder.")
            write_json(path, {"key": content_key(made)} | made)
            return
        kept = read_json(path)
        if kept.get("key") != content_key(made):
            changed = [name for name, value in made.items() if kept.get(name) != value]
            raise ArtifactError(f"{folder} holds another sweep; what differs: {', '.join(changed) or 'its key'}. Use another folder.")

    def read(self, number: int, rows: Sequence[int]) -> list[str] | None:
        """Answers of a finished batch; None when it is not there. Raises `ArtifactError` for a damaged one."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            part = pd.read_parquet(path, columns=["row", "answer"])
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
            raise ArtifactError(f"{path} is damaged: {reason_of(error).partition(chr(10))[0]}. Delete it and run again.") from error
        if part["row"].tolist() != list(rows) or part["answer"].isna().any():
            raise ArtifactError(f"{path} is damaged: its rows are not those of the plan. Delete it and run again.")
        return [str(answer) for answer in part["answer"]]

    def write(self, number: int, answered: pd.DataFrame) -> None:
        """Keep a batch, whole or not at all."""
        path = self._path(number)
        partial = path.with_name(path.name + ".partial")
        try:
            answered.rename_axis("row").reset_index().to_parquet(partial, index=False)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ArtifactError(f"Cannot write {path}: {reason_of(error)}. Free some space, or choose another folder.") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"


def _sampled_weights(model: LanguageModel) -> str:
    """Hash of some 64 entries of every parameter: two models of one name and shape differ in it, and it costs next to nothing."""
    digest = hashlib.sha256()
    for name, weight in model.network.named_parameters():
        flat = weight.detach().flatten()
        digest.update(name.encode() + flat[:: len(flat) // 64 + 1].float().cpu().numpy().tobytes())
    return digest.hexdigest()
