"""Rates by hand labels of a part of the answers: which labels belong to which answer, and whether they can be used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from interp.core.errors import ConfigError
from interp.evaluation.hand_labels import read_hand_labels
from interp.evaluation.rates import flags
from interp.stats.prediction_powered import FEWEST_LABELS, prediction_powered_rate
from interp.stats.rates import Rate


@dataclass(frozen=True)
class GoldLabels:
    """Labels by the answer's id, as 'personascope judge sample' gives it; for tables without ids, by question and answer."""

    source: str
    by_id: dict[str, bool]
    by_text: dict[tuple[str, str], bool]

    @staticmethod
    def read(path: str) -> GoldLabels:
        """Of a file. Raises `ConfigError` for one that cannot be read, and for an answer that is labelled in two ways."""
        table = read_hand_labels(Path(path))
        keys = list(table["id"].astype(str)) if "id" in table else list(table[["question", "answer"]].itertuples(index=False, name=None))
        told: dict[object, bool] = {}
        for key, label in zip(keys, table["shows_trait"], strict=True):
            if told.setdefault(key, bool(label)) != bool(label):
                raise ConfigError(f"{path} labels one answer in two ways: {key}. Decide for one.")
        return GoldLabels(path, told if "id" in table else {}, {} if "id" in table else told)  # type: ignore[arg-type]

    def rates(self, answers: pd.DataFrame) -> dict[str, Rate]:
        """The rate of each model among its answers that were not found incoherent, whether the judge scored them or not.

        Raises `ConfigError` when no label belongs to an answer here, and where texts that are labelled occur several times: which were
        drawn cannot be told then. Warns of labels that belong nowhere, and of models with too few.
        """
        counted = answers[[flag is not False for flag in flags(answers, "coherent")]]
        gold = self._gold(counted)
        found, used = {}, 0
        for model, own in counted.assign(gold=pd.Series(gold, index=counted.index, dtype=object)).groupby("model", sort=False):
            labels = flags(own, "gold")
            n = sum(label is not None for label in labels)
            used += n
            if n >= FEWEST_LABELS:
                found[str(model)] = prediction_powered_rate(flags(own, "shows_trait"), labels, list(own["cluster"]))
            elif n:
                warnings.warn(
                    f"{n} answers of {model} are labelled, {FEWEST_LABELS} are needed for a rate by labels.", UserWarning, stacklevel=2
                )
        total = len(self.by_id) + len(self.by_text)
        if used == 0:
            raise ConfigError(
                f"No answer here is labelled in {self.source}. Label what 'personascope judge sample' drew from these answers."
            )
        if used < total:
            warnings.warn(
                f"{total - used} of {total} labels in {self.source} belong to no answer that counts here.", UserWarning, stacklevel=2
            )
        return found

    def _gold(self, counted: pd.DataFrame) -> list[bool | None]:
        if self.by_id:
            ids = counted["id"] if "id" in counted else pd.Series("", index=counted.index)
            return [self.by_id.get(str(key)) for key in ids]
        pairs = list(counted[["question", "answer"]].itertuples(index=False, name=None))
        gold = [self.by_text.get((str(question), str(answer))) for question, answer in pairs]
        if sum(label is not None for label in gold) > len(self.by_text):
            raise ConfigError(
                f"{self.source} labels answers that occur several times here, without saying which were drawn: keep the column 'id' of "
                "'personascope judge sample', or leave repeated answers out of the labels."
            )
        return gold
