"""Steering, removal and sweeps on a run: what they measure is what the models say under the edit, and a second call loads the first's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from interp.causality import sweep as sweeping
from interp.causality.sweep import Condition
from interp.core.errors import EditWarning
from interp.core.files import read_json
from interp.interventions.edits import add, project_out
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit
from interp.models.chat_format import Answer
from interp.models.chats import Chat
from interp.models.generation import answers, generate
from interp.run import Run
from interp.studies import steering
from interp.studies.persona import context as study_context
from interp.studies.steering import adding
from interp.studies.steering_config import AblateConfig
from tests.helpers.small_run import QUESTION, texts

pytestmark = pytest.mark.usefixtures("letter_judge")


def test_steering_is_what_the_base_says_with_the_row_added(run: Run) -> None:
    found = run.steer(latent=5, dose=1.5, prompts=[QUESTION, "Why?"], samples=2)
    row = run.context.dictionary.w_dec[5]
    norm = read_json(run.run.result("directions").path("norms.json"))["median_centred_norm"]
    edit = add(row, {"blocks.1.hook_resid_post": norm}, 1.5)
    chats = [Chat.ask(text) for text in (QUESTION, "Why?")] * 2
    assert texts(found.answers, "base") == generate(run.context.base, chats, run.config.sampling, run.config.seed)
    with edited(run.context.base, edit):
        assert texts(found.answers, "steered") == generate(run.context.base, chats, run.config.sampling, run.config.seed)
    assert texts(found.answers, "steered") != texts(found.answers, "base")
    assert load_edit(found.step.folder, "edit").key == found.edit["key"] == edit.key
    rate = found.answers.groupby("condition", sort=False)["shows_trait"].mean()
    assert found.rates.set_index("condition")["rate"].to_dict() == pytest.approx(rate.to_dict())


def test_a_second_call_loads_and_another_one_does_not(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.steer(latent=6, dose=1.0, prompts=[QUESTION])
    with monkeypatch.context() as patch:
        patch.setattr(study_context, "sweep", None)  # nothing is asked
        again = Run(folder, quiet=True).steer(latent=6, dose=1.0, prompts=[QUESTION])
    assert (first.step.loaded, again.step.loaded) == (False, True)
    assert again.as_json() == first.as_json()
    assert json.loads(json.dumps(again.as_json())) == again.as_json()
    for change in (
        {"dose": 1.1},
        {"latent": 7},
        {"phase": "all"},
        {"where": "6>0.1"},
        {"samples": 2},
        {"prompts": ["Why?"]},
        {"tokens": 3},
    ):
        settings: dict[str, Any] = {"latent": 6, "dose": 1.0, "prompts": [QUESTION], **change}
        assert not run.steer(**settings).step.loaded, change


def test_named_directions_are_those_of_the_run(run: Run) -> None:
    kept = load_file(run.run.result("directions").path("directions.safetensors"))
    for name in ("persona_vector", "mean_difference"):
        edit = adding(run, None, name, 2.0)
        assert torch.nn.functional.cosine_similarity(edit.vectors[0, 0], kept[name], dim=0) == pytest.approx(1.0)
        assert edit.vectors[0, 0].norm() == pytest.approx(2.0 * run.directions.unit, rel=1e-5)
    assert adding(run, None, "random:1", 1.0).key == adding(run, None, "random:1", 1.0).key != adding(run, None, "random:2", 1.0).key


def test_a_condition_confines_the_edit(run: Run) -> None:
    never = f"3>{1e6:.1f}"
    with pytest.warns(EditWarning):
        found = run.steer(latent=5, dose=1.5, prompts=[QUESTION], where=never)
    assert texts(found.answers, "steered") == texts(found.answers, "base")
    assert found.edit["gate"]["latent"] == 3
    always = run.steer(latent=5, dose=1.5, prompts=[QUESTION])
    assert texts(always.answers, "steered") != texts(always.answers, "base")


def test_ablations_of_all_kinds(run: Run) -> None:
    chats = [Chat.ask(question.text) for question in run.context.questions.split("selection", 3)]
    rows = run.context.dictionary.w_dec[[4, 9]]
    kept = load_file(run.run.result("directions").path("directions.safetensors"))
    centres = {f"blocks.{layer}.hook_resid_post": kept[f"blocks.{layer}.hook_resid_post"] for layer in (1, 2)}
    found = run.ablate(latents=[4, 9], questions=3)
    with edited(run.context.tuned, project_out(rows, centres)):
        assert texts(found.answers, "ablated") == generate(run.context.tuned, chats, run.config.sampling, run.config.seed)
    assert texts(found.answers, "tuned") == generate(run.context.tuned, chats, run.config.sampling, run.config.seed)
    subtracted = run.ablate(latents=[4, 9], kind="subtract", questions=3)
    assert subtracted.edit["latents"]["values"] == [0.0, 0.0]
    assert subtracted.edit["hook_points"] == ["blocks.1.hook_resid_post"]
    means = run.latents.set_index("latent").loc[[4, 9], "mean_base"].tolist()
    assert run.ablate(latents=[4, 9], kind="mean", questions=3).edit["latents"]["values"] == pytest.approx(means)


def test_layers_outside_the_window_get_centres_of_their_own(run: Run) -> None:
    edit = run.removing([4], centres=run.centres(run.window((0, 1))))
    assert edit.hook_points == ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    assert torch.equal(edit.centres[1], run.directions.base_means["blocks.1.hook_resid_post"])
    measured = run.centres(run.window((0, 2)))
    assert torch.equal(measured["blocks.0.hook_resid_post"], edit.centres[0])  # measured once, loaded here
    assert not torch.allclose(edit.centres[0], edit.centres[1])


def test_the_search_finds_the_smallest_window_that_does_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model shows the trait unless the latent is removed at layer 1, in place of answers and judges."""

    def sweep(model: Any, conditions: list[Condition], questions: Any, *_: Any) -> pd.DataFrame:
        def shows(condition: Condition) -> bool:
            return condition.name != "base" and "blocks.1.hook_resid_post" not in condition.edits[0].hook_points

        rows = [{"condition": c.name, "question_id": q.id, "answer": "n" if shows(c) else "a"} for c in conditions for q in questions]
        return pd.DataFrame(rows)

    class Judge:
        def score(self, answers: pd.DataFrame) -> pd.DataFrame:
            shows = answers["answer"] == "n"
            return answers.assign(trait_score=100 * shows.astype(float), shows_trait=shows, coherent=True)

    with monkeypatch.context() as patch:
        patch.setattr(study_context, "sweep", sweep)
        patch.setattr(run.context.__class__, "panel", Judge())
        searches = [steering._search_layers(run, AblateConfig(latents=[11], layers=layers)) for layers in ((0, 2), (2, 2))]
        found, nowhere = (search.windows for search in searches)
    assert found.iloc[0][["first", "last", "rate"]].tolist() == [0, 2, 0.0]
    assert found[found["chosen"]][["first", "last"]].to_numpy().tolist() == [[1, 1]]
    assert set(found.loc[(found["first"] > 1) | (found["last"] < 1), "rate"]) <= {1.0}
    assert not nowhere["chosen"].any()


def test_a_search_is_followed_by_the_ablation_at_what_it_found(run: Run) -> None:
    found = run.ablate(latents=[4], search_layers=True, prompts=[QUESTION])
    assert found.windows is not None
    chosen = found.windows[found.windows["chosen"]]
    first, last = (1, 2) if chosen.empty else chosen[["first", "last"]].iloc[0]
    assert found.edit["hook_points"] == [f"blocks.{layer}.hook_resid_post" for layer in range(first, last + 1)]


def test_a_sweep_holds_what_steering_shows(run: Run) -> None:
    found = run.sweep(latents=[5], directions=["random:3"], doses=[0.5, 2.0], questions=4, budget=0.5)
    table = found.responses.set_index(["direction", "dose"])
    assert list(table.index) == [("base", 0.0), ("latent 5", 0.5), ("latent 5", 2.0), ("random 3", 0.5), ("random 3", 2.0)]
    for dose in (0.5, 2.0):
        rates = run.steer(latent=5, dose=dose, questions=4).rates.set_index("condition")
        for column in ("rate", "low", "high", "coherence"):
            assert table.loc[("latent 5", dose), column] == pytest.approx(rates.loc["steered", column])
            assert table.loc[("base", 0.0), column] == pytest.approx(rates.loc["base", column])
    for name, largest in found.largest.items():
        own = table.loc[name]
        kept = [dose for dose in (0.5, 2.0) if (own.loc[:dose, "coherence"] >= 0.5).all()]
        assert largest == (kept[-1] if kept else None)
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_a_sweep_goes_on_in_the_middle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"latents": [8, 9], "doses": [0.5, 1.0], "questions": 3}
    run = Run(folder, quiet=True)
    run.config = run.config.model_copy(update={"sampling": run.config.sampling.model_copy(update={"batch_rows": 4})})
    run.context = replace(run.context, study=run.config)
    whole = run.sweep(**settings)
    whole.step.folder.rename(whole.step.folder.with_name("kept"))
    seen: list[int] = []
    plain = study_context.sweep

    def dying(*args: Any, **options: Any) -> pd.DataFrame:
        def advance(n: int) -> None:
            seen.append(n)
            assert len(seen) < 3, "killed"

        return plain(*args[:6], advance, *args[7:], **options)

    with monkeypatch.context() as patch:
        patch.setattr(study_context, "sweep", dying)
        with pytest.raises(AssertionError, match="killed"):
            run.sweep(**settings)
    (parts,) = (folder / "unfinished").iterdir()
    assert len(list(parts.rglob("part-*.parquet"))) == 3
    asked: list[int] = []

    def counted(model: Any, chats: list[Chat], *more: Any, **options: Any) -> list[Answer]:
        asked.append(len(chats))
        return answers(model, chats, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "answers", counted)
        resumed = run.sweep(**settings)
    assert sum(asked) == 5 * 3 - 3 * 4  # five conditions, three questions, three batches done
    pd.testing.assert_frame_equal(resumed.responses, whole.responses)
    assert not (folder / "unfinished").exists()


def test_bisection_keeps_within_its_ends(run: Run) -> None:
    found = run.sweep(latents=[5, 6], doses=[0.2, 1.0], bisect=True, rounds=2, questions=3, budget=0.9)
    for latent in (5, 6):
        own = found.responses[found.responses["latent"] == latent]
        assert {0.2, 1.0} <= set(own["dose"])
        assert own["dose"].between(0.2, 1.0).all()
        largest = found.largest[f"latent {latent}"]
        assert largest is None or own.set_index("dose").loc[largest, "coherence"] >= 0.1 - 1e-9
