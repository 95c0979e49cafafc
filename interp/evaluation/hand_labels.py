"""Read a table of answers labelled by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from interp.core.errors import ConfigError, reason_of

LABELS = ("shows_trait", "misaligned")
"""Names that the column of labels may have."""
FLAGS = dict.fromkeys(("1", "1.0", "true", "yes"), True) | dict.fromkeys(("0", "0.0", "false", "no"), False)
OPEN = ("", "nan", "none", "<na>")


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, JSON-lines or parquet file; raises `ConfigError`."""
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, keep_default_na=False, na_values=[""])
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas' and pyarrow's errors are ValueErrors
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}. Give a whole file.") from error
    raise ConfigError(f"{path} is no .csv, .jsonl or .parquet file. Save the table as one of them.")


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
