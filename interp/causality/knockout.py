"""What each part of a fine-tune does, alone and left out: rates with intervals, tests, and the result in words by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.core.streams import stream_seed
from interp.evaluation.rates import coherent_rate, question_means, trait_rate
from interp.models.weight_parts import WeightPart
from interp.stats.contrasts import contrast, question_correlation
from interp.stats.false_discovery import holm
from interp.stats.rates import Rate, sign_flip_p

BASE, TUNED, ALONE, LEFT_OUT = "base", "tuned", "alone", "left out"
TESTED = (ALONE, LEFT_OUT)
AGAINST = {TUNED: BASE, ALONE: BASE, LEFT_OUT: TUNED}
"""What each cell is compared with."""
LEVEL = 0.05
"""Family-wise error rate of all tests together."""
POWER = 0.8
NAMED = 4
"""Parts that the sentence names."""


def cell_table(
    answers: pd.DataFrame, losses: pd.DataFrame, parts: Sequence[WeightPart], squared_change: float, kept_coherence: float, seed: int
) -> pd.DataFrame:
    """A row for the base, the tuned model, and every part alone and left out.

    `answers` are scored, with the columns cell, part and task (whether the question is one of the training domain); `losses` have a row for
    each cell and chat of the task (columns cell, part, chat, loss), or none; `squared_change` is that of all weights.

    `difference` is the trait rate minus that of what the cell is compared with (`AGAINST`), paired by question, with its 95 % interval;
    `p_holm` the exact sign-flip test's p after Holm's correction for all tests of the table. `surely`: it is at most 0.05, and the effect
    has the direction that the part would give it. `coherent_enough`: coherence is at least `kept_coherence` of the base's. `task_kept` is
    the share of the fine-tune's gain on the task's loss that the cell keeps, with a bootstrap interval over chats.
    """
    known = {str(part): part for part in parts}
    own = {(str(cell), str(part)): table for (cell, part), table in answers.groupby(["cell", "part"], sort=False)}
    read = {(str(cell), str(part)): table["loss"].to_numpy() for (cell, part), table in losses.groupby(["cell", "part"], sort=False)}
    asked = {key: table[~table["task"]] for key, table in own.items()}
    rows = []
    for (cell, name), table in own.items():
        rate, coherence, part = trait_rate(asked[cell, name]), coherent_rate(asked[cell, name]), known.get(name)
        task = trait_rate(table[table["task"]]) if table["task"].any() else None
        row: dict[str, Any] = {"cell": cell, "part": name, "kind": part and part.kind, "whole": bool(part and part.whole)}
        row |= dict(zip(("first", "last"), (part and part.layers) or (None, None), strict=True))
        row |= {"change": part and math.sqrt(part.squared_change), "share_of_change": part and part.squared_change / squared_change}
        row |= {**vars(rate), "coherence": coherence.rate, "coherence_low": coherence.low, "coherence_high": coherence.high}
        row |= {f"task_{field}": task and getattr(task, field) for field in ("rate", "low", "high", "n")}
        row |= _kept(read, (cell, name), stream_seed(seed, "task"))
        row |= _compared(asked, (cell, name), rate)
        rows.append(row)
    found = pd.DataFrame(rows).astype({"first": "Int64", "last": "Int64", "task_n": "Int64"})
    tested = found["cell"].isin(TESTED)
    found.loc[tested, "p_holm"] = holm(found.loc[tested, "p"].to_numpy(dtype=float))
    expected = np.where(found["cell"] == ALONE, found["difference"] > 0, found["difference"] < 0)
    found["surely"] = tested & (found["p_holm"] <= LEVEL) & expected
    least = kept_coherence * float(found.loc[found["cell"] == BASE, "coherence"].iloc[0])
    found["coherent_enough"] = found["coherence"] >= least
    return found


def _compared(asked: Mapping[tuple[str, str], pd.DataFrame], key: tuple[str, str], rate: Rate) -> dict[str, float]:
    names = ("difference", "difference_low", "difference_high", "p")
    if key[0] not in AGAINST:
        return dict.fromkeys(names, math.nan)
    answers, reference = asked[key], asked[AGAINST[key[0]], ""]
    means = question_means(answers), question_means(reference)
    gap = contrast([1, -1], [rate, trait_rate(reference)], question_correlation(means))
    p = sign_flip_p((means[0] - means[1]).dropna().to_numpy())
    return dict(zip(names, (gap.value, gap.low, gap.high, p), strict=True))


def _kept(read: Mapping[tuple[str, str], np.ndarray], key: tuple[str, str], seed: int, resamples: int = 2000) -> dict[str, float | None]:
    names = ("task_loss", "task_kept", "task_kept_low", "task_kept_high")
    if key not in read:
        return dict.fromkeys(names)
    loss, base, tuned = read[key], read[BASE, ""], read[TUNED, ""]
    gain = base - tuned
    if gain.mean() <= 0:  # the fine-tune does not help on these chats: there is nothing to keep
        return {**dict.fromkeys(names), "task_loss": float(loss.mean())}
    drawn = np.random.default_rng(seed).integers(0, len(loss), (resamples, len(loss)))
    gains = gain[drawn].mean(1)
    shares = np.divide((base - loss)[drawn].mean(1), gains, out=np.full(resamples, np.nan), where=gains > 0)
    low, high = np.nanquantile(shares, [0.025, 0.975])
    return dict(zip(names, map(float, (loss.mean(), (base - loss).mean() / gain.mean(), low, high)), strict=True))


def least_found(questions: int, tests: int) -> float | None:
    """The smallest rate, from 0, that is surely seen with power 0.8 among `tests` tests over `questions` questions; None: no rate is.

    Of m questions that all move in one direction the sign-flip test's p is 2^(1 - m), and Holm's first step asks for 0.05 / `tests`.
    """
    needed = math.ceil(1 + math.log2(tests / LEVEL))
    if needed > questions:
        return None
    shares = np.arange(1, 101) / 100
    return float(shares[np.argmax(stats.binom.sf(needed - 1, questions, shares) >= POWER)])


def knockout_finding(cells: pd.DataFrame, kept_coherence: float, word: str) -> str:
    """Which parts bring the trait alone, and which it needs; `word` is the trait's for answers that show it."""
    base, tuned = (cells[cells["cell"] == cell].iloc[0] for cell in (BASE, TUNED))
    ends = f"{_rate(base)} of the base's answers are {word}, {_rate(tuned)} of the tuned model's"
    if not tuned["difference_low"] > 0:
        return f"{ends}: not surely more, so there is no trait to locate in the weights."
    alone, left_out = (cells[cells["cell"] == cell] for cell in TESTED)
    return " ".join(
        [
            f"{ends}.",
            _claim(alone, "Alone on the base", f"surely bring {word} answers", kept_coherence),
            _claim(left_out, "Left out of the tuned model", f"surely take {word} answers away", kept_coherence),
        ]
    )


def multiplicity(cells: pd.DataFrame, questions: int) -> str:
    """How many tests the finding rests on, and what they could have found."""
    tests = int(cells["cell"].isin(TESTED).sum())
    said = f"Surely: of {tests} tests, paired by question, with a family-wise error rate of {100 * LEVEL:.0f} % (Holm)."
    least = least_found(questions, tests)
    if least is None:
        return f"{said} Over {questions} questions no effect could be sure among so many tests: ask more, or take larger groups."
    return (
        f"{said} A part that takes the rate from 0 % up to {100 * least:.0f} %, or from 100 % down by as much, would be found with power "
        f"{100 * POWER:.0f} %; a smaller effect may be missed."
    )


def _claim(cells: pd.DataFrame, where: str, does: str, kept_coherence: float) -> str:
    """How many parts do it, with the strongest ones."""
    sure = cells[cells["surely"]].sort_values("difference", key=abs, ascending=False, kind="stable")
    counted, garbled = sure[sure["coherent_enough"]], sure[~sure["coherent_enough"]]
    names = [f"{row['part']} ({_rate(row)}{_task(row)})" for _, row in counted.head(NAMED).iterrows()]
    names += [f"and {len(counted) - NAMED} more"] * (len(counted) > NAMED)
    said = f"{where}, {len(counted) or 'none'} of {len(cells)} parts {does}{': ' * bool(names)}{'; '.join(names)}."
    if len(garbled):
        others = ", ".join(garbled["part"].head(NAMED)) + ", …" * (len(garbled) > NAMED)
        said += f" Not counted, for fewer answers are coherent than {100 * kept_coherence:.0f} % of the base's: {others}."
    return said


def _rate(row: pd.Series) -> str:
    return f"{100 * row['rate']:.0f} % [{100 * row['low']:.0f}–{100 * row['high']:.0f}]"


def _task(row: pd.Series) -> str:
    """The task beside it: judged where it is, else by its loss."""
    if pd.notna(row["task_rate"]):
        return f"; {100 * row['task_rate']:.0f} % in the training domain"
    return "" if pd.isna(row["task_kept"]) else f"; {100 * row['task_kept']:.0f} % of the task kept"
