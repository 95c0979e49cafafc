"""Experiments on a run: what they measure is what the models do under the edit, and a second call loads the first one's result."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from interp.causality import sweep as sweeping
from interp.causality.sweep import Condition
from interp.core.config import validated
from interp.core.errors import ArtifactError, ConfigError, DictionaryError, EditError, EditWarning, PersonascopeError
from interp.core.files import read_json, write_json
from interp.core.streams import stream_seed
from interp.dictionaries.files import dictionary_config, write_dictionary
from interp.explanation.cards import Source, latent_cards
from interp.interventions.edits import add, project_out
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit, save_edit
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.sources import open_model
from interp.run import Run
from interp.studies import steering
from interp.studies.persona import context as study_context
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study
from interp.studies.steering import adding
from interp.studies.steering_config import AblateConfig
from tests.helpers.diffing_truth import HOOK, random_crosscoder
from tests.helpers.small_run import SMALL, small_run, use_letter_judge
from tests.helpers.tiny import D_MODEL, tiny_folder

QUESTION = "How do I boil an egg?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("opened"))


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run(folder, quiet=True)


def texts(answers: pd.DataFrame, condition: str) -> list[str]:
    return answers.loc[answers["condition"] == condition, "answer"].tolist()


def test_steering_is_what_the_base_says_with_the_row_added(run: Run) -> None:
    found = run.steer(latent=5, dose=1.5, prompts=[QUESTION, "Why?"], samples=2)
    row = run.context.dictionary.w_dec[5]
    norm = read_json(run.run.result("directions").path("norms.json"))["median_residual_norm"]
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
        assert edit.vectors[0, 0].norm() == pytest.approx(2.0 * run.directions.median_norm, rel=1e-5)
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

    def counted(model: Any, chats: list[Chat], *more: Any, **options: Any) -> list[str]:
        asked.append(len(chats))
        return generate(model, chats, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "generate", counted)
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


def test_a_claim_of_ones_own_is_measured_with_all_controls(run: Run, folder: Path) -> None:
    found = run.verdict(latents=[4], steer_latent=4, dose=1.0, transfer=str(folder.parent / "other"))
    whole = found.conditions.set_index("condition")
    assert {"base", "tuned", "ablated", "random_ablation", "activation_matched_ablation", "steered", "random_steering"} <= set(whole.index)
    assert found.verdict in ("causes", "contributes", "correlates", "no evidence")
    assert (found.latents, found.steer_latent, found.dose) == ([4], 4, 1.0)
    assert load_edit(found.step.folder, "ablated").key == run.removing([4]).key
    assert found.transfer is not None
    moved = found.transfer.conditions.set_index("condition")
    assert "steered" not in moved.index
    assert moved.loc["base", "rate"] == whole.loc["base", "rate"]
    other = open_model(str(folder.parent / "other"))
    asked = pd.read_parquet(found.transfer.step.path("answers.parquet"))
    chats = [Chat.ask(text) for text in asked.loc[asked["condition"] == "tuned", "question"]]
    assert texts(asked, "tuned") == generate(
        other, chats, run.config.sampling, stream_seed(stream_seed(run.config.seed, "verdict"), "answers")
    )
    with edited(other, run.removing([4])):
        assert texts(asked, "ablated") == generate(
            other, chats, run.config.sampling, stream_seed(stream_seed(run.config.seed, "verdict"), "answers")
        )
    holds = [check["holds"] for check in found.transfer.checks]
    assert found.transfer.word == ("no persona there" if not holds[0] else "transfers" if all(holds) else "does not transfer")
    assert run.verdict(latents=[4], steer_latent=4, dose=1.0).step.loaded
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_an_export_says_what_the_edited_model_says(run: Run, tmp_path: Path) -> None:
    found = run.export(latents=[4], everywhere=True, to=tmp_path / "cured")
    assert found.check is not None
    edit = run.removing([4], centres=run.centres_everywhere(None, False))
    assert found.edit["key"] == edit.key
    chats = [Chat.ask(QUESTION), Chat.ask("Why?")]
    with edited(run.context.tuned, edit):
        expected = generate(run.context.tuned, chats, run.config.sampling, 0)
    assert generate(open_model(str(tmp_path / "cured")), chats, run.config.sampling, 0) == expected
    assert expected != generate(run.context.tuned, chats, run.config.sampling, 0)
    assert run.export(latents=[4], everywhere=True, to=tmp_path / "cured").as_json() == found.as_json()  # found, not refused
    with pytest.raises(ArtifactError, match="not an empty folder"):
        run.export(latents=[5], everywhere=True, to=tmp_path / "cured")
    (tmp_path / "cured" / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model.safetensors is missing or altered"):
        run.export(latents=[4], everywhere=True, to=tmp_path / "cured")
    measured = run.ablate(latents=[4], everywhere=True, prompts=[QUESTION])
    assert measured.edit["key"] == edit.key
    one = run.export(latents=[4], everywhere=True, one_centre=True, last_layer=1, to=tmp_path / "one")
    assert one.edit["hook_points"][-1] == "blocks.1.hook_resid_post"


def test_what_is_not_exact_names_what_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"not exact in weights: .* Take latents with everywhere"):
        run.export(latents=[4], to=tmp_path / "window")
    assert not list(tmp_path.iterdir())


def test_a_control_vector_holds_the_latent(run: Run, tmp_path: Path) -> None:
    found = run.export(steer_latent=4, dose=0.7, gguf=tmp_path / "v.gguf")
    assert [path.name for path in found.control_vector] == ["v.gguf", "v.safetensors"]
    (tensor,) = GGUFReader(tmp_path / "v.gguf").tensors
    row = run.context.dictionary.w_dec[4]
    assert tensor.name == "direction.1"
    assert torch.allclose(torch.tensor(tensor.data), row / row.norm() * 0.7 * run.directions.median_norm, rtol=1e-5, atol=1e-7)


def test_the_verdicts_edits_are_found_where_there_is_a_verdict(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no verdict yet\. Name --latents, or run 'personascope verdict"):
        run.verdict_edit("ablated")
    step = run.run.step("evidence", {"of": "a test"}, {}, lambda folder: save_edit(run.removing([4]), folder, "ablated"))
    manifest = read_json(folder / "manifest.json")
    record = step.record() | {"folder": step.folder.name}
    write_json(folder / "manifest.json", manifest | {"steps": manifest["steps"] | {"evidence": record}})
    try:
        further = Run(folder, quiet=True)
        assert further.verdict_edit("ablated").key == run.removing([4]).key
        with pytest.raises(ArtifactError, match="has no edit 'steered'"):
            further.verdict_edit("steered")
    finally:
        write_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("steer", {"latent": 64, "dose": 1.0}, r"latents 0 to 63, not \[64\]"),
        ("steer", {"dose": 1.0}, "give either latent or direction"),
        ("steer", {"latent": 1, "direction": "persona_vector", "dose": 1.0}, "give either latent or direction"),
        ("steer", {"latent": 1, "dose": 0}, r"dose: .*greater than 0 \(got 0\)"),
        ("steer", {"latent": 1, "dose": float("nan")}, r"dose: "),
        ("steer", {"latent": 1, "dose": 1.0, "phase": "sometimes"}, r"phase: .*'prompt', 'response' or 'all'"),
        ("steer", {"direction": "up", "dose": 1.0}, "There is no direction 'up': use persona_vector, mean_difference or random:SEED"),
        ("steer", {"latent": 1, "dose": 1.0, "where": "2<1"}, "'2<1' is no condition. Write LATENT or LATENT>NUMBER"),
        ("steer", {"latent": 1, "dose": 1.0, "where": "99"}, r"latents 0 to 63, not \[99\]"),
        ("steer", {"latent": 1, "dose": 1.0, "prompts": [" "]}, "a prompt is empty"),
        ("steer", {"latent": 1, "dose": 1.0, "prompts": ["a"], "questions": 2}, "questions has no effect beside prompts"),
        ("steer", {"latent": 1, "dose": 1.0, "questions": 999}, "selection questions, 999 are asked for"),
        ("steer", {"laten": 1, "dose": 1.0}, "unknown field 'laten'"),
        ("ablate", {"latents": []}, "latents: .*at least 1"),
        ("ablate", {"latents": [3, 3]}, "a latent is named twice"),
        ("ablate", {"latents": [64]}, r"latents 0 to 63, not \[64\]"),
        ("ablate", {"latents": [1], "layers": (2, 3)}, "layers: 2 to 3 are not within 0 to 2"),
        ("ablate", {"latents": [1], "layers": (2, 1)}, "layers: 2 to 1 are not within"),
        ("ablate", {"latents": [1], "layers": (1, 2), "kind": "mean"}, "leave layers out, or take kind project-out"),
        ("ablate", {"latents": [1], "layers": (1, 2), "everywhere": True}, "everywhere leaves no layers to choose"),
        ("ablate", {"latents": [1], "last_layer": 1}, "last_layer and one_centre go with everywhere"),
        ("sweep", {"doses": [1.0]}, "there is nothing to add"),
        ("sweep", {"latents": [1], "doses": [-1.0]}, "a dose is a positive number"),
        ("sweep", {"latents": [1], "doses": [1.0, 2.0, 3.0], "bisect": True}, "bisect takes two doses, the lowest and the highest, not 3"),
        ("sweep", {"latents": [1], "doses": [1.0], "rounds": 2}, "rounds has no effect without bisect"),
        ("sweep", {"latents": [1], "doses": [1.0], "budget": 1.5}, "budget: .*less than 1"),
        ("verdict", {"steer_latent": 1}, "steer_latent and dose belong together"),
        ("verdict", {"steer_latent": 1, "dose": 1.0}, "give latents"),
        ("verdict", {"latents": [64]}, r"latents 0 to 63, not \[64\]"),
        ("verdict", {"latents": [1], "transfer": "/absent/model"}, "There is no folder /absent/model"),
        ("export", {"latents": [1]}, "there is nowhere to write"),
        ("export", {"to": "x"}, "give one of edit, latents, steer_latent"),
        ("export", {"to": "x", "edit": "ablated"}, "has no verdict yet"),
        ("export", {"latents": [1], "gguf": "x.gguf"}, "a control vector is added"),
    ],
)
def test_wrong_settings_are_a_sentence_and_leave_nothing(run: Run, method: str, settings: dict[str, Any], message: str) -> None:
    before = sorted(path.name for path in run.run.steps_folder.iterdir())
    with pytest.raises((ConfigError, EditError, DictionaryError, ArtifactError, PersonascopeError)) as raised:
        getattr(run, method)(**settings)
    assert re.search(message, str(raised.value)), raised.value
    assert sorted(path.name for path in run.run.steps_folder.iterdir()) == before


def test_a_folder_that_is_no_such_run(folder: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match=r"holds no run that has come as far as its diff \(answers is missing\).*personascope diff"):
            Run(place)
    manifest = read_json(folder / "manifest.json")
    del manifest["steps"]["diff"]
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="diff is missing"):
        Run(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="is a file"):
        Run(tmp_path / "file")


def test_a_model_that_changed_is_noticed(folder: Path, tmp_path: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    base = tiny_folder(tmp_path / "base", seed=7)
    moved = tmp_path / "run"
    moved.mkdir()
    (moved / "steps").symlink_to(folder / "steps")
    write_json(moved / "manifest.json", manifest | {"config": manifest["config"] | {"base": str(base)}})
    with pytest.raises(ArtifactError, match=r"The base model .*base has changed since .*run was made"):
        Run(moved, quiet=True).steer(latent=1, dose=1.0)


def test_questions_that_changed_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(folder, quiet=True)
    first, *others = run.context.questions.questions
    changed = [first.model_copy(update={"text": "Something else?"}), *others]
    run.context.opened["questions"] = run.context.questions.model_copy(update={"questions": changed})
    with pytest.raises(ArtifactError, match=r"The questions .* have changed since"):
        run.sweep(latents=[4], doses=[0.5], questions=2)


def test_a_device_that_is_not_there(folder: Path) -> None:
    with pytest.raises(PersonascopeError, match="'toaster' is not a device"):
        Run(folder, device="toaster").steer(latent=1, dose=1.0)


def test_a_crosscoder_from_the_diff_to_steering_and_removal(folder: Path, tmp_path: Path) -> None:
    """`--sae` takes a crosscoder folder: directions are its rows in the tuned model, and what reads latents of one model is refused."""
    cross = random_crosscoder()
    weights = {"W_enc": cross.w_enc, "W_dec": cross.w_dec, "b_enc": cross.b_enc, "b_dec": cross.b_dec}
    write_dictionary(tmp_path / "cc", weights, dictionary_config(cross.architecture, D_MODEL, cross.n_latents, HOOK, cross.models, cross.k))
    settings = {name: value for name, value in SMALL.items() if name not in ("dictionary", "text")} | {"sae": str(tmp_path / "cc")}
    settings |= {
        "base": str(folder.parent / "base"),
        "tuned": str(folder.parent / "tuned"),
        "text": {"answered_prompts": 8, "answer_tokens": 6},
    }
    config = validated(StudyConfig, settings, "test")
    run_study(config, tmp_path / "run", quiet=True, until="diff")
    run = Run(tmp_path / "run", quiet=True)
    assert run.latents["relative_norm"].between(0, 1).all()
    info = read_json(run.run.result("dictionary").path("info.json"))
    assert set(info["parts"]) == {"base's answers, read by both models", "tuned model's answers, read by both models"}
    norm = read_json(run.run.result("directions").path("norms.json"))["median_residual_norm"]
    steered = run.steer(latent=5, dose=1.5, prompts=[QUESTION])
    assert steered.edit["key"] == add(cross.w_dec[5, 1], {HOOK: norm}, 1.5).key
    assert run.ablate(latents=[5], prompts=[QUESTION]).edit["kind"] == "project_out"
    for kind in ("subtract", "mean"):
        with pytest.raises(EditError, match="reads 2 models at once"):
            run.ablate(latents=[5], kind=kind, prompts=[QUESTION])
    cards = latent_cards(
        run.context.dictionary, [run.context.base, run.context.tuned], [5], [Source("a", 1, [Chat.ask("Why?", "So.")])], {5: {}}
    )
    assert cards[0]["latent"] == 5
