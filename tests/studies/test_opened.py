"""A run opened again: a claim of one's own, wrong use in a sentence, what has changed since is noticed, and a crosscoder's run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.config import validated
from interp.core.errors import ArtifactError, ConfigError, DictionaryError, EditError, PersonascopeError
from interp.core.files import read_json, write_json
from interp.core.streams import stream_seed
from interp.dictionaries.files import dictionary_config, write_dictionary
from interp.explanation.cards import Source, latent_cards
from interp.interventions.edits import add
from interp.interventions.hooks import edited
from interp.interventions.saved import load_edit
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.sources import open_model
from interp.run import Run
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.study import run_study
from tests.helpers.diffing_truth import HOOK, random_crosscoder
from tests.helpers.small_run import QUESTION, SMALL, texts
from tests.helpers.tiny import D_MODEL, tiny_folder

pytestmark = pytest.mark.usefixtures("letter_judge")


def test_a_claim_of_ones_own_is_measured_with_all_controls(run: Run, folder: Path) -> None:
    found = run.verdict(latents=[4], steer_latent=4, dose=1.0, transfer=str(folder.parent / "other"))
    whole = found.conditions.set_index("condition")
    assert {"base", "tuned", "ablated", "random_ablation", "activation_matched_ablation", "steered", "random_steering"} <= set(whole.index)
    assert {f"{name}_{edit}" for name in ("mean_difference", "principal_directions") for edit in ("ablation", "steering")} <= set(
        whole.index
    )
    assert found.verdict in ("causes", "contributes", "correlates", "no evidence", "undecided")
    assert (found.latents, found.steering_latents, found.dose) == ([4], [4], 1.0)
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
    present, *necessary, enough = (check["holds"] for check in found.transfer.checks)
    absent = "does not transfer" if present else "no persona there"
    assert found.transfer.word == ("transfers" if present and all(necessary) else absent if enough else "undecided")
    assert run.verdict(latents=[4], steer_latent=4, dose=1.0).step.loaded
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


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
        ("ablate", {"kind": "mean"}, "kind has no effect on the edit of the run.s verdict"),
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
    norm = read_json(run.run.result("directions").path("norms.json"))["median_centred_norm"]
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
