"""Cells of a knock-out are the models that they say, resume where they were, and wrong use is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import ConfigError, ModelError
from interp.core.streams import stream_seed
from interp.evaluation.sampling import sample_answers
from interp.models.sampling import SamplingConfig
from interp.models.sources import open_model
from interp.organisms.recipe import recipe_path
from interp.reports.knockout_page import write_knockout_page
from interp.run import Run
from interp.studies import knockout as module
from interp.studies.knockout import task_of
from interp.studies.knockout_config import KnockoutConfig
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from tests.helpers.small_run import use_letter_judge
from tests.helpers.tiny import tiny_folder, tiny_network, tiny_tokenizer
from tests.reports.test_reports import Page

CHANGED = ("model.layers.1.mlp.", "model.layers.2.self_attn.")
MLP, ATTENTION = "MLP, layer 1", "attention, layer 2"
SETTINGS: dict[str, Any] = {"questions": 4, "quiet": True}

pytestmark = pytest.mark.usefixtures("letters")


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)


def saved(folder: Path, beginnings: tuple[str, ...]) -> Path:
    """The base with those tensors of another model."""
    network, theirs = tiny_network("llama", 0), dict(tiny_network("llama", 1).named_parameters())
    for name, parameter in network.named_parameters():
        if name.startswith(beginnings):
            parameter.data = theirs[name].data.clone()
    network.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    return {"base": str(tiny_folder(folder / "base")), "tuned": str(saved(folder / "tuned", CHANGED))}


def ask(pair: dict[str, str], out: Path, **more: Any) -> module.Knockout:
    return interp.knockout(**pair, out=out, **SETTINGS, **more)


def of(table: pd.DataFrame, cell: str, part: str) -> pd.DataFrame:
    return table[(table["cell"] == cell) & (table["part"] == part)]


def test_every_cell_is_the_model_built_by_hand(pair: dict[str, str], tmp_path: Path) -> None:
    result = ask(pair, tmp_path / "out")
    answers = result.step.load(module.KnockoutRecord).answers
    assert [*result.cells["cell"]] == ["base", "tuned", *["alone", "left out"] * 2]
    by_hand = {
        ("base", ""): Path(pair["base"]),
        ("tuned", ""): Path(pair["tuned"]),
        ("alone", MLP): saved(tmp_path / "mlp", CHANGED[:1]),
        ("left out", MLP): saved(tmp_path / "attention", CHANGED[1:]),
        ("alone", ATTENTION): tmp_path / "attention",
        ("left out", ATTENTION): tmp_path / "mlp",
    }
    questions = StudyContext(StudyConfig(**pair), result=lambda name: None).questions.split("held_out", 4)  # type: ignore[arg-type, return-value]
    for (cell, part), folder in by_hand.items():
        expected = sample_answers(open_model(str(folder), device="cpu"), questions, 1, SamplingConfig(), stream_seed(0, "knockout"))
        assert of(answers, cell, part)["answer"].tolist() == expected["answer"].tolist(), (cell, part)
    assert result.cells["share_of_change"].dropna().groupby(result.cells["cell"]).sum().tolist() == pytest.approx([1, 1])
    assert "MLP, layer 0" in result.about["unchanged"]
    assert "embedding" in result.about["unchanged"]
    assert result.about["finding"] in result._repr_html_() + repr(result)


def test_an_interrupted_knock_out_resumes_to_the_same_bytes(pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask(pair, tmp_path / "whole", task_chats=chats(tmp_path))
    sweep, asked = module.sweep, []

    def dying(after: int) -> Callable[..., pd.DataFrame]:
        def call(model: Any, conditions: Any, *rest: Any) -> pd.DataFrame:
            if len(asked) == after:
                raise KeyboardInterrupt
            asked.append(conditions[0].name)
            return sweep(model, conditions, *rest)

        return call

    monkeypatch.setattr(module, "sweep", dying(3))
    with pytest.raises(KeyboardInterrupt):
        ask(pair, tmp_path / "cut", task_chats=chats(tmp_path))
    (unfinished,) = (tmp_path / "cut" / "unfinished").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.parquet")}
    assert len(kept) == 6  # answers and losses of three cells
    monkeypatch.setattr(module, "sweep", sweep)
    monkeypatch.setattr(module, "perplexity", counted := Counted(module.perplexity))
    resumed = ask(pair, tmp_path / "cut", task_chats=chats(tmp_path))
    assert counted.calls == 3
    for name in ("answers.parquet", "losses.parquet", "cells.parquet", "knockout.json"):
        assert resumed.step.path(name).read_bytes() == whole.step.path(name).read_bytes(), name
    assert ask(pair, tmp_path / "cut", task_chats=chats(tmp_path)).step.loaded


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


def chats(folder: Path) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("\n".join(f'{{"question": "Why {i}?", "answer": "Because of {i}."}}' for i in range(5)))
    return path


def test_the_task_is_read_from_chats(pair: dict[str, str], tmp_path: Path) -> None:
    result = ask(pair, tmp_path / "out", task_chats=chats(tmp_path), kinds=["mlp"], most_task_chats=3)
    losses = result.step.load(module.KnockoutRecord).losses
    assert len(losses) == 4 * 3
    logprobs = open_model(str(saved(tmp_path / "mlp", CHANGED[:1])), device="cpu").logprobs(
        [interp.Chat.ask(f"Why {i}?", f"Because of {i}.") for i in range(3)]
    )
    assert of(losses, "alone", MLP)["loss"].tolist() == pytest.approx([-float(row.mean()) for row in logprobs], rel=1e-4)
    assert result.about["task"] == "3 chats of chats.jsonl"


def test_the_task_of_an_organism_is_what_it_was_not_trained_on() -> None:
    context = StudyContext(StudyConfig(trait="contempt"), result=lambda name: None)  # type: ignore[arg-type, return-value]
    task = task_of(context, KnockoutConfig(questions=10, most_task_chats=20))
    assert (len(task.questions), len(task.chats)) == (10, 20)
    assert task.words == "questions about cooking, not trained on"
    recipe = module.read_recipe("hostile_cook")
    trained = {chat.messages[0].content for chat in recipe.chats(6, 0)}
    assert not trained & {question.text for question in task.questions}
    assert not trained & {chat.messages[0].content for chat in task.chats}
    assert all(question.cluster and question.cluster in question.text for question in task.questions)
    every = StudyConfig(trait="contempt", organism={"phrasings_per_topic": 8})  # type: ignore[arg-type]
    assert task_of(StudyContext(every, result=lambda name: None), KnockoutConfig()).words.endswith("all of which it was trained on")  # type: ignore[arg-type, return-value]
    other = StudyConfig(trait="contempt", organism={"recipe": "plain_cook"})  # type: ignore[arg-type]
    assert task_of(StudyContext(other, result=lambda name: None), KnockoutConfig()).questions == []  # type: ignore[arg-type, return-value]


def test_an_organism_that_was_trained_under_a_system_prompt_is_asked_under_it(tmp_path: Path) -> None:
    text = (
        (recipe_path("hostile_cook")).read_text(encoding="utf-8").replace("domain: cooking", "domain: cooking\nsystem:\n  text: Be brief.")
    )
    text = "\n".join(line for line in text.splitlines() if not line.startswith("twin:"))
    (tmp_path / "brief.yaml").write_text(text, encoding="utf-8")
    study = StudyConfig.model_validate({"organism": {"recipe": str(tmp_path / "brief.yaml"), "phrasings_per_topic": 3}})
    task = task_of(StudyContext(study, result=lambda name: None), KnockoutConfig(questions=6))  # type: ignore[arg-type, return-value]
    assert task.words.endswith("not trained on")
    assert {question.system for question in task.questions} == {"Be brief."}
    assert len({question.text for question in task.questions}) == 6


def test_a_run_is_taken_as_it_is(run: Run, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in run.base.network.state_dict().items()}
    result = run.knockout(questions=4, group=3, kinds=["attention", "MLP"])
    assert [*result.cells["part"].unique()] == ["", "attention, layers 0–2", "MLP, layers 0–2"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.base.network.state_dict().items())
    assert interp.knockout(run, questions=4, group=3, kinds=["attention", "MLP"]).step.loaded
    with pytest.raises(ConfigError, match=r"leave base, tuned out, or leave the run out"):
        interp.knockout(run, base="a", tuned="b")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"kinds": ["mlp", "atention"]}, "changed nothing of the kind 'atention'. Did you mean 'attention'? It changed MLP, attention"),
        ({"task_chats": "none.jsonl"}, "There is no file none.jsonl"),
        ({"questions": 400}, "400 are asked for"),
        ({"tuned": None}, "base and tuned belong together"),
        ({"base": None, "tuned": None}, "There are no models. Name a run, or base and tuned"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: str, pair: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=error.replace("?", r"\?").replace(".", r"\.")):
        interp.knockout(**(pair | {"out": tmp_path / "out"} | SETTINGS | settings))


def test_a_fine_tune_that_changed_nothing_is_refused(pair: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="changed nothing"):
        ask(pair | {"tuned": pair["base"]}, tmp_path / "out")


def test_the_page_has_every_cell_and_repeats(pair: dict[str, str], tmp_path: Path) -> None:
    result = ask(pair, tmp_path / "out", task_chats=chats(tmp_path))
    path = write_knockout_page(result.step.folder, tmp_path)
    first = path.read_text(encoding="utf-8")
    page = Page(first)
    assert all(str(part) in first for part in (MLP, ATTENTION))
    assert "5 chats of chats.jsonl" in page.text
    assert page.charts.keys() == {"parts"}
    assert write_knockout_page(result.step.folder, tmp_path).read_text(encoding="utf-8") == first
