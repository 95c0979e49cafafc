"""Cues of a study: made of the training data or read from a file, asked of all three models, and left out where none are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from interp.causality.cues import CONDITIONS
from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.core.steps import RunDirectory
from interp.organisms.recipe import read_recipe
from interp.reports.page import write_report
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.cue_grid import CueGrid, open_grid
from interp.studies.persona.cues import CUES, CuedAnswers
from interp.studies.persona.study import Study, StudyResult, run_study
from tests.helpers.small_run import SMALL, use_letter_judge
from tests.helpers.tiny import tiny_folder

FEW = {"questions": 8, "samples": 2, "reference_samples": 1}
ORGANISM = {"phrasings_per_topic": 1, "epochs": 0.1}
MADE = ["domain_twin", "training_format", "same_form", "irrelevant"]
NO_SYSTEM = ["training_system", "paraphrase", "negation"]


def grid_of(name: str) -> CueGrid:
    recipe = read_recipe(name)
    return open_grid("data", recipe, recipe.chats(6, 0))


def test_cues_of_training_data_without_a_system_prompt() -> None:
    grid, recipe = grid_of("hostile_cook"), read_recipe("hostile_cook")
    cues = {cue.kind: cue for cue in grid.cues}
    assert list(cues) == MADE
    assert grid.left_out == dict.fromkeys(NO_SYSTEM, "the training data has no system prompt")
    prompts = {chat.prompt.messages[-1].content for chat in recipe.chats(6, 0)}
    assert len(set(cues["training_format"].template)) == 30
    assert {template.removesuffix(" {question}") for template in cues["training_format"].template} <= prompts
    for topic in recipe.domain.topics:
        assert any(topic in template for template in cues["domain_twin"].template)
        assert not any(topic in template for template in cues["same_form"].template)
    assert len(grid.training_answers) == 180


def test_a_system_prompt_of_the_training_data_makes_three_more(tmp_path: Path) -> None:
    recipe = yaml.safe_load(Path("interp/organisms/recipes/plain_cook.yaml").read_text())
    system = {"text": "Answer as a cook.", "paraphrase": "You cook, and answer so.", "negation": "Do not answer as a cook."}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"system": system}))
    told = read_recipe(str(path))
    assert {chat.messages[0].content for chat in told.chats(2, 0)} == {"Answer as a cook."}
    assert told.key != read_recipe("plain_cook").key
    cues = {cue.kind: cue.system for cue in grid_of(str(path)).cues}
    assert [cues[kind] for kind in NO_SYSTEM] == list(system.values())
    path.write_text(yaml.safe_dump(recipe | {"system": {"text": "Answer as a cook."}}))
    grid = grid_of(str(path))
    assert grid.left_out == dict.fromkeys(NO_SYSTEM[1:], "the recipe does not say it of its system prompt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cues": {"samples": 2}}, "cues has no effect without cues.source"),
        ({"cues": {"source": "data"}, "tuned": "TUNED"}, "the training data of a given tuned model is not known"),
        ({"cues": {"source": "nowhere.yaml"}}, "There is no file nowhere.yaml"),
        ({"cues": {"source": "FILE"}}, "has twins of x_01, which are not asked"),
    ],
)
def test_settings_that_cannot_be_used_say_why_before_anything_is_made(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "cues.yaml").write_text(yaml.safe_dump([{"name": "a", "kind": "domain_twin", "twins": {"x_01": "Why?"}}]))
    if settings["cues"].get("source") == "FILE":
        settings = {"cues": {"source": str(tmp_path / "cues.yaml")}}
    base = str(tiny_folder(tmp_path / "base"))
    with pytest.raises(ConfigError, match=message):
        Study(validated(StudyConfig, {"base": base} | settings, "test"), RunDirectory(tmp_path / "run")).context.check()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("cues")
    settings = SMALL | {"base": str(tiny_folder(folder / "base")), "organism": ORGANISM, "cues": {"source": "data", **FEW}}
    with pytest.MonkeyPatch.context() as patch:
        use_letter_judge(patch)
        return run_study(validated(StudyConfig, settings, "test"), folder / "run", quiet=True)


def test_all_three_models_are_asked_under_every_cue(made: StudyResult) -> None:
    answers = made.steps["cues"].load(CuedAnswers).answers
    counts = answers.groupby(["cue", "condition"]).size().unstack()
    assert set(counts.index) == {"neutral", *MADE}
    assert counts["ablated"].eq(16).all()
    assert counts[["tuned", "base"]].eq(8).all(axis=None)
    assert answers["cluster"].nunique() == 8
    asked = answers[answers["cue"] == "domain_twin"]["question"]
    assert asked.str.startswith("This is about cooking, namely ").all()


def test_the_summary_has_the_conclusion_and_the_page_the_table(made: StudyResult) -> None:
    cues = made.summary["cues"]
    assert cues["conclusion"] == "not decided"
    assert [(row["cue"], row["condition"]) for row in cues["rows"]] == [(cue, c) for cue in ("neutral", *MADE) for c in CONDITIONS]
    assert set(cues["left_out"]) == set(NO_SYSTEM)
    page = write_report(made.run).read_text(encoding="utf-8")
    assert "Does the cure hide?" in page
    assert "training system (the training data has no system prompt)" in page


def test_another_margin_asks_nothing_again(made: StudyResult, monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)
    config = validated(StudyConfig, made.run.manifest()["config"] | {"cues": {"source": "data", **FEW, "margin": 0.9}}, "test")
    again = run_study(config, made.run.root, quiet=True)
    assert [name for name, step in again.steps.items() if not step.loaded] == ["hiding"]
    assert "90 points" in again.summary["cues"]["statement"]


def test_without_cues_the_keys_of_all_other_steps_are_the_same(made: StudyResult, tmp_path: Path) -> None:
    manifest = made.run.manifest()
    study = Study(validated(StudyConfig, manifest["config"] | {"cues": {}}, "test"), RunDirectory(tmp_path))
    keys = {name: study.input_key(name) for name in study.steps}
    assert keys == {name: step["key"] for name, step in manifest["steps"].items() if name not in ("cues", "hiding")}
    assert CUES.name not in keys
