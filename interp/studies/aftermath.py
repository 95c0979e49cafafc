"""After the ablation: base and ablated model are diffed again, on what they now answer, to see whether the persona found another way."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from interp.causality.rerouting import rerouting
from interp.core.files import write_json
from interp.core.formatting import plain_records
from interp.diffing.pairings import Answers, collect
from interp.diffing.rankings import latent_table
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit
from interp.models.chats import Chat
from interp.studies.inputs import Workbench
from interp.studies.suspicion import read_directions

ALONG = 0.2
"""A re-routed latent whose decoder row has at least this cosine with the persona vector, or with the mean tuned minus base residual, is
counted as pointing along the persona. Those of the removed latents stand beside it: either direction may miss what carries it."""
COSINES = ["cosine_persona", "cosine_mean_difference"]


def make_after(bench: Workbench, removed: list[int], directions_folder: Path, verdict: Path, folder: Path) -> None:
    """Write rerouting.parquet (latents that moved after the ablation) and after.json (how many, and how many along the persona).

    Nothing is compared, and None written, where nothing was removed or fewer than two questions were answered by all.
    """
    answers = pd.read_parquet(verdict / "answers.parquet")
    if not removed or min(len(set(_paired(answers, condition)["base"].questions)) for condition in ("tuned", "ablated")) < 2:
        pd.DataFrame().to_parquet(folder / "rerouting.parquet")
        write_json(folder / "after.json", {"moved": None, "along_persona": None, "least_cosine": ALONG, "removed": []})
        return
    cure = load_edit(verdict, "ablated")
    directions = read_directions(directions_folder)
    known = {"persona_vector": directions.persona_vector, "mean_difference": directions.mean_difference}
    tables = {}
    for condition, edits in (("tuned", ()), ("ablated", (cure,))):
        written = _paired(answers, condition)
        with (
            bench.progress(f"diffing base and {condition} model", sum(len(own.chats) for own in written.values())) as advance,
            edited(bench.tuned, *edits),
        ):
            moments = collect(bench.base, bench.tuned, bench.dictionary, written, ["on_policy"], progress=advance)
        tables[condition] = latent_table(moments, bench.dictionary, bench.config.seed, **known)
    table = rerouting(tables["tuned"], tables["ablated"], removed, bench.config.diff.largest_q)
    table["along"] = (table[COSINES] >= ALONG).any(axis=1)
    table.to_parquet(folder / "rerouting.parquet")
    own = tables["tuned"].set_index("latent", drop=False).loc[removed, ["latent", *COSINES]]
    counts = {"moved": len(table), "along_persona": int(table["along"].sum()), "least_cosine": ALONG}
    write_json(folder / "after.json", {**counts, "removed": plain_records(own)})


def _paired(answers: pd.DataFrame, condition: str) -> dict[str, Answers]:
    """Answers of the base, and of the tuned model under `condition`, to the questions that both answered."""
    named = {"base": "base", "tuned": condition}
    own = {name: answers[(answers["condition"] == wanted) & (answers["answer"] != "")] for name, wanted in named.items()}
    both = sorted(set(own["base"]["question_id"]) & set(own["tuned"]["question_id"]))
    index = {question: place for place, question in enumerate(both)}
    result = {}
    for name, rows in own.items():
        kept = rows[rows["question_id"].isin(both)]
        chats = [Chat.ask(q, a) for q, a in zip(kept["question"], kept["answer"], strict=True)]
        result[name] = Answers(chats, [index[question] for question in kept["question_id"]])
    return result
