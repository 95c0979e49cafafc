"""Rates by human labels of a part of the answers: which labels belong to which answer, and whether they can be used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from interp.core.errors import ConfigError
from interp.evaluation.counted_answers import flags
from interp.evaluation.hand_labels import read_hand_labels
from interp.stats.prediction_powered import FEWEST_LABELS, prediction_powered_rate
from interp.stats.rates import Rate

TEXTS = ["question", "answer"]


@dataclass(frozen=True)
class HumanLabels:
    """Labels by the answer's id, as 'personascope judge sample' gives it; for tables without ids, by question and answer."""

    source: str
    columns: list[str]
    """What an answer is known by: its id, or its texts."""
    labels: dict[tuple[str, ...], bool]

    @staticmethod
    def read(path: str) -> HumanLabels:
        """Of a file. Raises `ConfigError` for one that cannot be read, and for an answer that is labelled in two ways."""
        table = read_hand_labels(Path(path))
        columns = ["id"] if "id" in table else TEXTS
        labels: dict[tuple[str, ...], bool] = {}
        for key, label in zip(_keys(table, columns), table["shows_trait"], strict=True):
            if labels.setdefault(key, bool(label)) != bool(label):
                raise ConfigError(f"{path} labels one answer in two ways: {', '.join(key)}. Decide for one.")
        return HumanLabels(path, columns, labels)

    def rates(self, answers: pd.DataFrame) -> dict[str, Rate]:
        """The prediction-powered rate of each model among its answers that were not found incoherent, whether the judge scored them or not.

        Raises `ConfigError` when no label belongs to an answer here, and where texts that are labelled occur several times: which were
        drawn cannot be told then. Warns of labels that belong nowhere, and of models with too few.
        """
        counted = answers[[flag is not False for flag in flags(answers, "coherent")]]
        keys = _keys(counted, self.columns) if set(self.columns) <= set(counted) else [()] * len(counted)
        counted = counted.assign(label=pd.Series([self.labels.get(key) for key in keys], index=counted.index, dtype=object))
        used = int(counted["label"].notna().sum())
        if self.columns == TEXTS and used > len(self.labels):
            raise ConfigError(
                f"{self.source} labels answers that occur several times here, without saying which were drawn: keep the column 'id' of "
                "'personascope judge sample', or leave repeated answers out of the labels."
            )
        if used == 0:
            raise ConfigError(f"No answer here is labelled in {self.source}. Label what 'personascope judge sample' drew.")
        if used < len(self.labels):
            _warn(f"{len(self.labels) - used} of {len(self.labels)} labels in {self.source} belong to no answer that counts here.")
        rates = {}
        for model, own in counted.groupby("model", sort=False):
            n = int(own["label"].notna().sum())
            if n >= FEWEST_LABELS:
                rates[str(model)] = prediction_powered_rate(flags(own, "shows_trait"), flags(own, "label"), list(own["cluster"]))
            elif n:
                _warn(f"{n} answers of {model} are labelled, {FEWEST_LABELS} are needed for a rate by labels.")
        return rates


def _keys(table: pd.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    return list(table[columns].astype(str).itertuples(index=False, name=None))


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
