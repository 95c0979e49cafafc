"""Read a table of answers labelled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import ConfigError, reason_of
from interp.core.files import read_jsonl

ANSWERS = ("response", "completion")
"""Other names of the column of answers."""
LABELS = ("shows_trait", "misaligned")
"""Names that the column of labels may have."""
FLAGS = dict.fromkeys(("1", "1.0", "true", "yes"), True) | dict.fromkeys(("0", "0.0", "false", "no"), False)
OPEN = ("", "nan", "none", "<na>")


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, JSON-lines or parquet file; a column `response` or `completion` is called `answer`. Raises `ConfigError`."""
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        elif path.suffix == ".jsonl":
            table = _of_records(read_jsonl(path), path)
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            raise ConfigError(f"{path} is no .csv, .jsonl or .parquet file. Save the table as one of them.")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors are ValueErrors
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}. Give a whole file.") from error
    other = next((name for name in ANSWERS if name in table), "answer")
    return table if "answer" in table else table.rename(columns={other: "answer"})


def _of_records(rows: list[Any], path: Path) -> pd.DataFrame:
    """A table of JSON objects, values as they are: texts that look like numbers or dates stay texts."""
    wrong = next((number for number, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ConfigError(f"{path}, row {wrong} is no JSON object. Write an object with the columns on each line.")
    return pd.DataFrame(rows)


def read_hand_labels(path: Path) -> pd.DataFrame:
    """Columns question, answer, shows_trait (bool), and whatever else the file has; answers without a label are left out.

    The file's column may be called `shows_trait` or `misaligned`, and holds 0 and 1 (true and false, yes and no). Raises `ConfigError`.
    """
    table = read_table(path)
    given = next((name for name in LABELS if name in table), None)
    if given is None or "answer" not in table:
        raise ConfigError(f"{path} needs the columns 'answer' and 'shows_trait' (0 or 1); it has {', '.join(map(str, table.columns))}.")
    table = table.assign(answer=table["answer"].fillna("").astype(str), shows_trait=table[given].map(lambda value: _flag(value, path)))
    table = table.assign(question=table["question"].fillna("").astype(str) if "question" in table else "")
    labelled = table[table["shows_trait"].notna()]
    if labelled.empty:
        raise ConfigError(f"{path} labels no answer: fill the column '{given}' with 0 and 1.")
    return labelled.assign(shows_trait=labelled["shows_trait"].astype(bool)).reset_index(drop=True)


def _flag(value: object, path: Path) -> bool | None:
    word = str(value).strip().casefold()
    if word in FLAGS or word in OPEN:
        return FLAGS.get(word)
    raise ConfigError(f"{path}: '{value}' is no label. Write 0 or 1, or leave it empty.")
