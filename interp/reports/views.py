"""What each section of the page shows, as plain data: latents, cards with shaded tokens, transcripts, judges, provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import pandas as pd

from interp.causality.removals import Removal
from interp.reports import numbers
from interp.reports.conditions import TRANSCRIPT_CONDITIONS, Group, Row

SHADES = 9
SHOWN_REROUTED = 8
SHOWN_EXAMPLES = 4
SHOWN_EXCHANGES = 8
TOP_LATENTS = 20
WINDOW = 64
"""Tokens shown of an example; a longer one is cut around its strongest token."""
RANKING_WORDS = {"mean_diff": "latents by rise", "along_persona": "latents along the persona vector", "mean_difference": "mean difference"}
T = TypeVar("T")


@dataclass(frozen=True)
class DosePanel:
    """One panel of the dose–response figure: its curves by name, the thin lines behind them, and its palette role."""

    chart: str
    title: str
    curves: dict[str, pd.DataFrame]
    reference: dict[str, pd.DataFrame]
    role: str
    steering: bool = False


@dataclass(frozen=True)
class Token:
    """A token's text, its activation as printed, and its shade: 0 (none) to `SHADES` (the latent's peak)."""

    text: str
    value: str
    shade: int
    peak: bool


@dataclass(frozen=True)
class Example:
    """A stretch of text in which a latent fires."""

    source: str
    peak: str
    tokens: list[Token]
    cut_before: bool
    cut_after: bool


@dataclass(frozen=True)
class Answer:
    """One answer and what the judges say of it, in words."""

    text: str
    shows: bool
    verdict: str
    scores: str


@dataclass(frozen=True)
class Exchange:
    """One question and sample, answered under each condition; None where a condition has no such sample."""

    group: str
    question: str
    sample: int
    answers: list[Answer | None]


def leading_latents(latents: pd.DataFrame, chosen: Sequence[int]) -> list[dict[Any, Any]]:
    """The top latents by mean activation difference, then chosen ones that are not among them; each row says whether it was `chosen`."""
    ordered = latents.sort_values(["rank_mean_diff", "latent"], kind="stable", ignore_index=True)
    ordered["chosen"] = ordered["latent"].isin(chosen)
    return ordered[ordered["chosen"] | (ordered.index < TOP_LATENTS)].to_dict("records")


def removal_rows(screen: pd.DataFrame) -> list[dict[Any, Any]]:
    """Everything that was removed, in words; what was chosen first, then by how many questions were asked and by rate."""
    rows = [
        {"kl": None}  # which runs of earlier versions did not measure
        | record
        | {"removed": RANKING_WORDS.get(record["removed"], record["removed"]), "way": str(Removal(record["kind"], record["strength"]))}
        for record in screen.to_dict("records")
    ]
    return sorted(rows, key=lambda row: (not row["chosen"], -row["questions"], row["rate"]))


def removal_curve(screen: pd.DataFrame, choice: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of `screen`, one a size: sets of the chosen ranking, removed in the chosen way; empty where nothing was chosen."""
    if not choice.get("removal"):
        return screen.head(0)
    same = (screen["removed"] == choice["ranking"]) & (screen["kind"] == choice["removal"]["kind"])
    return screen[same & (screen["strength"] == choice["removal"]["strength"])].drop_duplicates("size").sort_values("size")


def dose_panels(dose_response: pd.DataFrame, steering: int) -> list[DosePanel]:
    """A panel for each set of latents (the one that was chosen, of `steering` latents, first), for the named directions, and for the
    differences of ordinary answers.
    """
    curves = {str(name): table.sort_values("dose", kind="stable") for name, table in dose_response.groupby("direction", sort=False)}
    kinds = {name: str(table["kind"].iloc[0]) for name, table in curves.items()}
    ordinary = {name: table for name, table in curves.items() if kinds[name] == "ordinary"}
    sets = {name: int(curves[name]["size"].iloc[0]) for name, kind in kinds.items() if kind == "latents"}
    panels = [
        DosePanel(f"dose-{size}", name.capitalize(), {name: curves[name]}, ordinary, "persona", size == steering)
        for name, size in sorted(sets.items(), key=lambda item: (item[1] != steering, item[1]))
    ]
    panels += [
        DosePanel(f"dose-{kind.replace('_', '-')}", name.capitalize(), {name: curves[name]}, ordinary, "ink")
        for name, kind in kinds.items()
        if kind not in ("latents", "ordinary")
    ]
    if ordinary:
        panels.append(DosePanel("dose-ordinary", "Ordinary differences", ordinary, {}, "control"))
    return panels


def examples(card: dict[str, Any]) -> list[Example]:
    """A card's examples, tokens shaded by their share of the latent's peak."""
    peak = max(float(card["peak"]), 1e-12)
    shown = []
    for example in card["examples"]:
        values = [0.0 if numbers.absent(value) else float(value) for value in example["activations"]]
        highest = max(values, default=0.0)
        start, end = _window(values)
        tokens = [
            Token(
                text=numbers.token(text),
                value=numbers.significant(value),
                shade=min(SHADES, math.ceil(SHADES * value / peak)) if value > 0 else 0,
                peak=value == highest > 0,
            )
            for text, value in list(zip(example["tokens"], values, strict=True))[start:end]
        ]
        cut = (start > 0, end < len(values))
        shown.append(Example(numbers.visible(example["text_source"]), numbers.significant(highest), tokens, *cut))
    return shown


def exchanges(answers: pd.DataFrame, groups: Sequence[Group], words: Mapping[str, str]) -> tuple[list[Row], list[Exchange]]:
    """The conditions side by side, and every exchange: first samples of groups in turn, then all others in order.

    `words` are the trait's: `shown`, `not_shown`. Of a pooled control the replicates answer in turn: the first
    that was asked a question stands for it.
    """
    rows = {row.condition: row for group in groups for row in group.rows}
    asked = set(answers["condition"])
    shown = [rows[name] for name in TRANSCRIPT_CONDITIONS if name in rows and name in asked]
    answered = pd.concat([answers[:0], *(answers[answers["condition"] == row.condition] for row in shown)])
    answered = answered.drop_duplicates(["condition", "question_id", "sample"])
    every = []
    for _, own in answered.groupby(["question_id", "sample"], sort=False):
        records = {record["condition"]: record for record in own.to_dict("records")}
        group, question = (numbers.visible(own[name].iloc[0]) for name in ("group", "question"))
        cells = [answer(records[row.condition], words) if row.condition in records else None for row in shown]
        every.append(Exchange(group, question, int(own["sample"].iloc[0]), cells))
    first = min((exchange.sample for exchange in every), default=0)
    queues = in_groups([exchange for exchange in every if exchange.sample == first], lambda exchange: exchange.group)
    in_turn = [exchange for turn in zip_longest(*queues.values()) for exchange in turn if exchange is not None]
    front = in_turn[:SHOWN_EXCHANGES]
    chosen = {id(exchange) for exchange in front}
    return shown, front + [exchange for exchange in every if id(exchange) not in chosen]


def answer(record: Mapping[Any, Any], words: Mapping[str, str]) -> Answer:
    """One row of a table of scored answers, in words; `words` are the trait's: `shown`, `not_shown`."""
    shows = not numbers.absent(record["shows_trait"]) and bool(record["shows_trait"])
    verdict = "not scored" if numbers.absent(record["shows_trait"]) else words["shown" if shows else "not_shown"]
    if not numbers.absent(record["coherent"]) and not record["coherent"]:
        verdict += ", incoherent"
    kinds = {"score": "trait_score", "second judge": "second_score", "coherence": "coherence"}
    scores = [f"{name} {numbers.number(record[key], 0)}" for name, key in kinds.items() if not numbers.absent(record.get(key))]
    return Answer(numbers.visible(record["answer"]).strip() or "(empty answer)", shows, verdict, " · ".join(scores))


def judge_rows(agreement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each group of hand-labelled answers: the trait judge's figures, and the AUROC of the other judges where there are any."""
    others = {
        name: {row["group"]: row["auroc"] for row in (agreement[name] or {"groups": []})["groups"]} for name in ("second", "coherence")
    }
    rows = (agreement["trait"] or {"groups": []})["groups"]
    return [row | {f"{name}_auroc": known.get(row["group"]) for name, known in others.items()} for row in rows]


def in_groups(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items under their key, in order of appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _window(values: Sequence[float]) -> tuple[int, int]:
    """First and last place of `WINDOW` values around the largest."""
    if len(values) <= WINDOW:
        return 0, len(values)
    strongest = max(range(len(values)), key=lambda place: values[place])
    start = min(max(0, strongest - WINDOW // 2), len(values) - WINDOW)
    return start, start + WINDOW


def rerouted_latents(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Latents that moved after the ablation: those along the persona first, `SHOWN_REROUTED` in all."""
    first = pd.concat([table[table["along"]], table[~table["along"]]]).head(SHOWN_REROUTED)
    return first.to_dict("records")
