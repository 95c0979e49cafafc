"""Runs that differ in their seed as one result: words, latents, rates with their spread. A pure function of what the runs saved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.causality.removals import Removal
from interp.core.formatting import plain
from interp.evaluation.counted_answers import flags
from interp.evaluation.rates import cluster_column
from interp.stats.intervals import beta_binomial, design_effect, stretched
from interp.stats.rates import Rate
from interp.studies.persona.config import StudyConfig

OF_A_SEED = ("verdict", "finding", "beyond_baselines", "carrier", "half_point", "persona_latents", "ranking", "removal", "steering_latents",
             "steering_dose", "hook_point")  # fmt: skip
RATE_COLUMNS = ("role", "title", "rate", "low", "high", "n", "unscored", "coherence")


@dataclass(frozen=True)
class FinishedSeed:
    """What a finished run says."""

    seed: int
    summary: Mapping[str, Any]
    """Of its `summary.json`."""
    answers: pd.DataFrame
    """All scored answers behind its verdict: columns condition, question_id, shows_trait, coherent."""


@dataclass(frozen=True)
class FailedSeed:
    """A run that did not finish."""

    seed: int
    error: str
    command: str
    """The command that runs this seed again, from its last finished step."""


def seeds_summary(finished: Sequence[FinishedSeed], failed: Sequence[FailedSeed], config: StudyConfig) -> dict[str, Any]:
    """What `seeds.json` says of the runs, but for how far their latents agree. At least one has finished."""
    summaries = [one.summary for one in finished]
    first = summaries[0]
    given = {"organism": config.tuned, "dictionary": config.sae, "sampling": None}
    rates, verdicts = rates_over_seeds(finished), _counted(summary["verdict"] for summary in summaries)
    return {
        "schema_version": 1,
        "finding": _finding(rates, first["trait"]["shown"]),
        **{name: first[name] for name in ("name", "trait", "base", "versions")},
        "tuned": config.tuned or f"an organism of each seed, on {config.base}",
        "varied": [name for name, source in given.items() if source is None],
        "given": {name: str(source) for name, source in given.items() if source is not None},
        "seeds": [{"seed": one.seed, **{name: one.summary.get(name) for name in OF_A_SEED}} for one in finished],
        "failed": [vars(one) for one in failed],
        "verdicts": verdicts,
        "carriers": _counted(summary["carrier"] or "not stated" for summary in summaries),
        "removals": _counted(str(Removal(**summary["removal"])) if summary["removal"] else "nothing removed" for summary in summaries),
        "hook_points": _counted(summary["hook_point"] for summary in summaries),
        "half_point": _half_point([summary["half_point"] for summary in summaries]),
        "rates": rates,
    }


def rates_by_seed(finished: Sequence[FinishedSeed]) -> pd.DataFrame:
    """A row for every seed and condition, with the interval within the seed: columns seed, condition and `RATE_COLUMNS`."""
    rows = [
        {"seed": one.seed, "condition": name, **{column: rate.get(column) for column in RATE_COLUMNS}}
        for one in finished
        for name, rate in one.summary["rates"].items()
    ]
    return pd.DataFrame(rows, columns=["seed", "condition", *RATE_COLUMNS])


def rates_over_seeds(finished: Sequence[FinishedSeed]) -> dict[str, dict[str, Any]]:
    """By condition: the mean of the seeds' rates with the interval of `mean_over_seeds`, and the spread between seeds.

    `seeds` have the condition, `n` are their answers, `sd` is the standard deviation of their rates (None of fewer than two), `smallest`
    and `largest` are the ends; `coherence` has an interval of the same kind.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for name, rate in (item for one in finished for item in one.summary["rates"].items()):
        known.setdefault(name, rate)
    return {name: _over_seeds([one for one in finished if name in one.summary["rates"]], name, about) for name, about in known.items()}


def mean_over_seeds(seeds: Sequence[int], questions: Sequence[str], outcomes: Sequence[bool | None]) -> Rate:
    """The mean of the seeds' rates, with an interval for new seeds and new questions of the kind.

    Each seed has its own rate, drawn from a beta law whose width is averaged over (`beta_binomial`), and answers to one question are alike
    in all seeds, too, by which the interval is stretched as that of `clustered_rate` is. A seed counts as much as any other, however many
    answers it was asked. Few seeds show their spread badly: of such 95 % intervals over 2, 3 and 5 simulated seeds of 48 answers, whose
    rates differed by up to a standard deviation of one on the logit scale, 94 to 100 % held the mean; of Student's over the seeds' rates
    71 to 96 %.
    """
    answers = pd.DataFrame({"seed": seeds, "question": questions, "hit": [math.nan if hit is None else float(hit) for hit in outcomes]})
    scored = answers.dropna(subset="hit")
    unscored = len(answers) - len(scored)
    if scored.empty:
        return Rate(math.nan, 0.0, 1.0, 0, unscored)
    of_seed, of_question = (scored.groupby(by)["hit"].agg(["sum", "count"]).to_numpy(int).T for by in ("seed", "question"))
    mean = float((of_seed[0] / of_seed[1]).mean())
    by_seed, by_question = design_effect(*of_seed), design_effect(*of_question)
    both = max(by_seed, by_question) if mean in (0.0, 1.0) else by_seed + by_question - 1
    low, high = stretched(beta_binomial(*of_seed), mean, math.sqrt(both / by_seed))
    return Rate(mean, min(low, mean), max(high, mean), len(scored), unscored)


def _over_seeds(runs: Sequence[FinishedSeed], condition: str, about: Mapping[str, Any]) -> dict[str, Any]:
    own = pd.concat([one.answers[one.answers["condition"] == condition].assign(seed=one.seed) for one in runs], ignore_index=True)
    seeds, questions = own["seed"].tolist(), own[cluster_column(own)].tolist()
    rate = mean_over_seeds(seeds, questions, flags(own, "shows_trait"))
    coherence = mean_over_seeds(seeds, questions, [bool(flag) for flag in flags(own, "coherent")])  # unjudged ones are not, as in a run
    single = pd.Series([one.summary["rates"][condition]["rate"] for one in runs], dtype=float).dropna()
    values = {
        "role": about.get("role"),
        "title": about.get("title", condition),
        "seeds": len(runs),
        **vars(rate),
        "sd": single.std() if len(single) > 1 else math.nan,
        "smallest": single.min(),
        "largest": single.max(),
        "coherence": coherence.rate,
        "coherence_low": coherence.low,
        "coherence_high": coherence.high,
    }
    return {name: plain(value) for name, value in values.items()}


def verdict_counts(verdicts: Mapping[str, int]) -> str:
    """`causes in 2 of 3 seeds, undecided in 1`."""
    n = sum(verdicts.values())
    (first, often), *others = verdicts.items()
    return ", ".join([f"{first} in {often} of {n} seed{'s' * (n > 1)}", *(f"{word} in {count}" for word, count in others)])


def _finding(rates: Mapping[str, Mapping[str, Any]], word: str) -> str:
    """What removing the latents does, in a sentence."""
    if any(rates.get(name, {}).get("rate") is None for name in ("tuned", "ablated")):
        return "Nothing was removed, or no answer was scored."
    before, after = (
        f"{100 * rate['rate']:.0f} % [{100 * rate['low']:.0f}–{100 * rate['high']:.0f}]" for rate in (rates["tuned"], rates["ablated"])
    )
    return f"Removing the persona latents takes {word} answers from {before} to {after}, as means over seeds."


def _half_point(values: Sequence[float | None]) -> dict[str, float] | None:
    """Geometric mean and ends over the seeds that have one; None where none has."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    mean = math.exp(sum(map(math.log, there)) / len(there))
    return {"seeds": len(there), "geometric_mean": mean, "smallest": min(there), "largest": max(there)}


def _counted(words: Any) -> dict[str, int]:
    """How often each word stands there, the most frequent first."""
    return dict(Counter(words).most_common())
