"""What each section of the page shows, as plain data: latents, cards with shaded tokens, transcripts, judges, provenance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.reports import wording
from interp.reports.conditions import TRANSCRIPT_CONDITIONS, Group

SHADES = 9
SHOWN_REROUTED = 8
SHOWN_EXAMPLES = 4
SHOWN_EXCHANGES = 8
TOP_LATENTS = 20
WINDOW = 64
"""Tokens shown of an example; a longer one is cut around its strongest token."""
DOSE_PANELS = 9


@dataclass(frozen=True)
class DosePanel:
    """One panel of the dose–response figure: its curves, the thin lines behind them, its palette role and its doses."""

    chart: str
    title: str
    curves: list[tuple[str, pd.DataFrame]]
    reference: list[tuple[str, pd.DataFrame]]
    role: str
    extent: tuple[float, float]
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

    title: str
    model: str
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
    by_mean_diff = latents.sort_values(["rank_mean_diff", "latent"], kind="stable")
    top = by_mean_diff.head(TOP_LATENTS)
    below = by_mean_diff.iloc[TOP_LATENTS:]
    below = below[below["latent"].isin(chosen)]
    return [record | {"chosen": record["latent"] in chosen} for part in (top, below) for record in part.to_dict("records")]


def screened_latents(screen: pd.DataFrame, dose_response: pd.DataFrame) -> list[dict[Any, Any]]:
    """What the causal screen measured; the steered rate gets interval and count from the dose–response table."""
    rows = []
    for record in screen.to_dict("records"):
        match = dose_response[dose_response["direction"] == f"latent {int(record['latent'])}"]
        if not wording.absent(record["steered_dose"]):
            match = match[(match["dose"].astype(float) - float(record["steered_dose"])).abs() < 1e-9]
        found = match.iloc[0].to_dict() if len(match) and not wording.absent(record["steered_dose"]) else {}
        extra = {f"steered_{key}": found.get(key) for key in ("low", "high", "n")}
        orders = [order for order in ("" if wording.absent(record["metrics"]) else str(record["metrics"])).split(",") if order]
        rows.append({"ablated_n": None} | record | extra | {"metrics": ", ".join(orders), "chosen": bool(record["chosen"])})
    return sorted(rows, key=lambda row: not row["chosen"])


def dose_panels(dose_response: pd.DataFrame, persona: Sequence[int], steering: int | None) -> list[DosePanel]:
    """A panel for each persona latent (the steering latent first), for the persona vector, and for the random directions."""
    if dose_response.empty:
        return []
    curves = {str(name): table.sort_values("dose", kind="stable") for name, table in dose_response.groupby("direction", sort=False)}
    kinds = {name: table["kind"].iloc[0] for name, table in curves.items()}
    doses = dose_response["dose"].astype(float)
    extent = (float(doses.min()), float(doses.max()))
    random = [(name, curves[name]) for name, kind in kinds.items() if kind == "random"]
    panels = []
    for latent in list(dict.fromkeys([*([steering] if steering is not None else []), *persona]))[:DOSE_PANELS]:
        name = f"latent {latent}"
        if name in curves:
            panels.append(
                DosePanel(f"dose-{latent}", f"Latent {latent}", [(name, curves[name])], random, "persona", extent, latent == steering)
            )
    for name, kind in kinds.items():
        if kind == "persona_vector":
            panels.append(DosePanel("dose-vector", "Persona vector", [(name, curves[name])], random, "ink", extent))
    if random:
        title = f"{len(random)} random direction{'s' if len(random) > 1 else ''}"
        panels.append(DosePanel("dose-random", title, random, [], "control", extent))
    return panels


def examples(card: dict[str, Any]) -> list[Example]:
    """A card's examples, tokens shaded by their share of the latent's peak."""
    peak = max(float(card["peak"]), 1e-12)
    shown = []
    for example in card["examples"]:
        values = [0.0 if wording.absent(value) else float(value) for value in example["activations"]]
        highest = max(values, default=0.0)
        start, end = _window(values)
        tokens = [
            Token(
                text=wording.token(text),
                value=wording.significant(value),
                shade=min(SHADES, math.ceil(SHADES * value / peak)) if value > 0 else 0,
                peak=value == highest > 0,
            )
            for text, value in list(zip(example["tokens"], values, strict=True))[start:end]
        ]
        cut = (start > 0, end < len(values))
        shown.append(Example(wording.visible(example["text_source"]), wording.significant(highest), tokens, *cut))
    return shown


def exchanges(answers: pd.DataFrame, groups: Sequence[Group], words: Mapping[str, str]) -> tuple[list[str], list[Exchange]]:
    """Titles of the conditions side by side, and every exchange: first samples of groups in turn, then all others in order.

    `words` are the trait's: `shown`, `not_shown`. Of a pooled control the replicates answer in turn: the first
    that was asked a question stands for it.
    """
    rows = {row.name: row for group in groups for row in group.rows}
    titles: list[str] = []
    models: list[str] = []
    tables: list[dict[tuple[str, int], dict[Any, Any]]] = []
    for name in TRANSCRIPT_CONDITIONS:
        if name not in rows:
            continue
        records = answers[answers["condition"] == name].to_dict("records")
        if records:
            titles.append(rows[name].title)
            models.append(rows[name].model)
            tables.append({(str(r["question_id"]), int(r["sample"])): r for r in reversed(records)})
    keys: dict[tuple[str, int], dict[Any, Any]] = {}
    for answered in tables:
        for key in reversed(answered):
            keys.setdefault(key, answered[key])
    made = [
        Exchange(
            group=wording.visible(record["group"]),
            question=wording.visible(record["question"]),
            sample=sample,
            answers=[
                _answer(answered[question, sample], title, model, words) if (question, sample) in answered else None
                for answered, title, model in zip(tables, titles, models, strict=True)
            ],
        )
        for (question, sample), record in keys.items()
    ]
    first = min((exchange.sample for exchange in made), default=0)
    front = _in_turn([exchange for exchange in made if exchange.sample == first])[:SHOWN_EXCHANGES]
    chosen = {id(exchange) for exchange in front}
    return titles, front + [exchange for exchange in made if id(exchange) not in chosen]


def judge_rows(agreement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each group of hand-labelled answers: the trait judge's figures, and the AUROC of the other judges where there are any."""
    others = {
        name: {row["group"]: row["auroc"] for row in (agreement[name] or {"groups": []})["groups"]} for name in ("second", "coherence")
    }
    rows = (agreement["trait"] or {"groups": []})["groups"]
    return [row | {f"{name}_auroc": known.get(row["group"]) for name, known in others.items()} for row in rows]


def step_rows(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps of the manifest, with what the page prints for each."""
    return [{"name": name, **step} for name, step in manifest["steps"].items()]


def by_group(rest: Iterable[Exchange]) -> dict[str, list[Exchange]]:
    """Exchanges under their question group, in order of appearance."""
    parts: dict[str, list[Exchange]] = {}
    for exchange in rest:
        parts.setdefault(exchange.group, []).append(exchange)
    return parts


def _window(values: Sequence[float]) -> tuple[int, int]:
    """First and last place of `WINDOW` values around the largest."""
    if len(values) <= WINDOW:
        return 0, len(values)
    strongest = max(range(len(values)), key=lambda place: values[place])
    start = min(max(0, strongest - WINDOW // 2), len(values) - WINDOW)
    return start, start + WINDOW


def _in_turn(items: list[Exchange]) -> list[Exchange]:
    """One of each question group, then the next of each."""
    queues = list(by_group(items).values())
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def _answer(record: dict[Any, Any], title: str, model: str, words: Mapping[str, str]) -> Answer:
    shows = not wording.absent(record["shows_trait"]) and bool(record["shows_trait"])
    verdict = "unscored" if wording.absent(record["shows_trait"]) else words["shown" if shows else "not_shown"]
    if not wording.absent(record["coherent"]) and not record["coherent"]:
        verdict += ", incoherent"
    kinds = {"score": "trait_score", "second judge": "second_score", "coherence": "coherence"}
    scores = " · ".join(f"{name} {wording.number(record[column], 0)}" for name, column in kinds.items() if column in record)
    text = wording.visible(record["answer"]).strip() or "(empty answer)"
    return Answer(title, model, text, shows, verdict, scores)


def rerouted_latents(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Latents that moved after the ablation: all along the persona, then those that rose most, `SHOWN_REROUTED` in all."""
    first = pd.concat([table[table["along"]], table[~table["along"]]]).head(SHOWN_REROUTED)
    return [{str(name): value for name, value in row.items()} for row in first.to_dict("records")]
