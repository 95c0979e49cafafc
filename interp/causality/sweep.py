"""Sample answers under many edits at once: every (condition, sample, question) is a row, and rows go in full batches."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from interp import __version__
from interp.core.errors import ArtifactError, EditError, ModelError, reason_of
from interp.core.files import read_json, saving, write_json
from interp.core.fingerprints import content_key
from interp.evaluation.questions import Question
from interp.evaluation.sampling import answer_rows, columns_of
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited_rows
from interp.models.chat_format import Answer
from interp.models.generation import answers
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
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values that its rows have in the table of answers, `condition` among them where it is to be called otherwise than here."""

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
    asked = [_rows(condition, questions, samples) for condition in conditions]
    table = pd.concat([own for own, _ in asked], ignore_index=True) if asked else answer_rows([], 0)
    streams = [stream for _, own in asked for stream in own]
    condition_of = [condition for condition, (_, own) in zip(conditions, asked, strict=True) for _ in own]
    changes = {c.name: " ".join(edit.key for edit in c.edits if edit.phase != "response") for c in conditions}  # of the prompt
    chats = {question.id: question.chat() for question in questions}
    ids = {name: tuple(tokenised.ids) for name, tokenised in zip(chats, model.tokenise(list(chats.values())), strict=True)}
    question_of = table["question_id"].tolist()
    batches = plan_batches([ids[name] for name in question_of], [changes[c.name] for c in condition_of], sampling.batch_rows)

    def ask(rows: Sequence[int]) -> list[Answer]:
        together = sampling.model_copy(update={"batch_rows": len(rows)})
        edits = [condition_of[row].edits for row in rows]
        with edited_rows(model, edits) if any(edits) else nullcontext():
            return answers(model, [chats[question_of[row]] for row in rows], together, seed, streams=[streams[row] for row in rows])

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
    if folder is not None:
        _check_plan(folder, json.loads(json.dumps(made)))
    result, most = [Answer("")] * len(table), sampling.batch_rows
    for number, rows in enumerate(batches):
        path = None if folder is None else folder / f"part-{number:05d}.parquet"
        if path is not None and path.exists():
            written = _read_part(path, rows)
        else:
            written, most = _within_memory(ask, rows, most, most < sampling.batch_rows)
            if path is not None:
                with saving(path) as partial:
                    table.iloc[rows].assign(**columns_of(written)).rename_axis("row").reset_index().to_parquet(partial, index=False)
        for row, answer in zip(rows, written, strict=True):
            result[row] = answer
        if progress:
            progress(len(rows))
    return table.assign(**columns_of(result))


def _rows(condition: Condition, questions: Sequence[Question], samples: int) -> tuple[pd.DataFrame, list[int]]:
    """What is asked under a condition, and the stream of random numbers of each row: that of its question and sample in all conditions."""
    unknown = sorted(set(condition.asked or ()) - {question.id for question in questions})
    if unknown:
        raise EditError(f"The condition '{condition.name}' asks {', '.join(unknown)}, which is none of the questions. Correct the ids.")
    places = [place for place, question in enumerate(questions) if condition.asked is None or question.id in condition.asked]
    repeats = condition.samples or samples
    table = answer_rows([questions[place] for place in places], repeats, condition.name).assign(**condition.columns)
    return table, [sample * len(questions) + place for sample in range(repeats) for place in places]


def plan_batches(prompts: Sequence[tuple[int, ...]], changes: Sequence[str], rows: int) -> list[list[int]]:
    """Row numbers in batches of `rows`, all full but the last: prompts of like length, the same prompt, the same change of it together.

    `prompts` are token ids; `changes` say what is done to them.
    """
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row], changes[row], row))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def _within_memory(ask: Callable[[Sequence[int]], list[Answer]], rows: Sequence[int], most: int, warned: bool) -> tuple[list[Answer], int]:
    """Answers to `rows`, asked `most` at a time, in halves, quarters, … from the moment that memory runs out; and what `most` is then."""
    written: list[Answer] = []
    while len(written) < len(rows):
        part = rows[len(written) : len(written) + most]
        try:
            written += ask(part)
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise ModelError(
                    "Memory does not suffice for a single row. Free some, ask for fewer new tokens, or take a smaller model or dtype."
                ) from error
        most = -(-len(part) // 2)
        gc.collect()  # only here have the frames of the failed pass let go of their tensors
        torch.cuda.empty_cache()  # does nothing where CUDA was not used
        if not warned:
            warnings.warn(
                f"Memory ran out with {len(part)} rows in a batch; the sweep continues with {most}, and halves that as often as it must. "
                f"Set batch_rows to {most} to begin so.",
                RuntimeWarning,
                stacklevel=3,
            )
        warned = True
    return written, most


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    )


def _check_plan(folder: Path, made: dict[str, Any]) -> None:
    """Write plan.json, which says of what the parts are; raises `ArtifactError` when `folder` holds those of another sweep."""
    path, key = folder / PLAN_FILE, content_key(made)
    if not path.exists():
        if any(folder.glob("part-*.parquet")):
            raise ArtifactError(f"{folder} holds parts of a sweep without its {PLAN_FILE}. Use another folder.")
        write_json(path, {"key": key} | made)
    elif (known := read_json(path)).get("key") != key:
        changed = [name for name, value in made.items() if known.get(name) != value]
        raise ArtifactError(f"{folder} holds another sweep; what differs: {', '.join(changed) or 'its key'}. Use another folder.")


def _read_part(path: Path, rows: Sequence[int]) -> list[Answer]:
    """Answers of a finished batch. Raises `ArtifactError` for a damaged one."""
    try:
        part = pd.read_parquet(path)
        reason = "" if part["row"].tolist() == list(rows) and part["answer"].notna().all() else "its rows are not those of the plan"
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        reason = reason_of(error)
    if reason:
        raise ArtifactError(f"{path} is damaged: {reason}. Delete it and run again.")
    columns = [part[name] if name in part else [""] * len(part) for name in ("answer", "thoughts", "reason")]
    return [Answer(*map(str, row)) for row in zip(*columns, strict=True)]


def _sampled_weights(model: LanguageModel) -> str:
    """Hash of some 64 entries of every parameter: two models of one name and shape differ in it, and it costs next to nothing."""
    digest = hashlib.sha256()
    for name, weight in model.network.named_parameters():
        flat = weight.detach().flatten()
        digest.update(name.encode() + flat[:: len(flat) // 64 + 1].float().cpu().numpy().tobytes())
    return digest.hexdigest()
