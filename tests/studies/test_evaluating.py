"""Evaluation of models on a question set: what is asked, what is kept, what is compared, and wrong use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from interp.cli.main import app
from interp.core.config import validated
from interp.core.errors import PersonascopeError
from interp.evaluation.answer_columns import ASKED, EVALUATED, SCORED
from interp.evaluation.counted_answers import flags
from interp.evaluation.panel import Panel, open_panel
from interp.evaluation.questions.question import JSON_SYSTEM
from interp.interventions.hooks import edited
from interp.interventions.saved import save_edit
from interp.models.chats import Chat, Role
from interp.models.generation import generate
from interp.models.sources import open_model
from interp.run import Run
from interp.stats.rates import clustered_rate
from interp.studies import evaluating
from interp.studies.evaluating import evaluate
from interp.studies.evaluation import Evaluation
from interp.studies.evaluation_config import EvaluateConfig
from interp.traits import DEFAULT_TRAIT, read_trait
from tests.helpers.small_run import letter_panel, small_run

QUESTIONS = {
    "name": "mine",
    "questions": [
        {"id": f"{group}{i}", "group": group, "split": "held_out", "text": f"What of {group} {i}?"} for group in "ab" for i in range(3)
    ]
    + [{"id": "chosen", "group": "a", "split": "selection", "text": "What else?"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    small_run(folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(QUESTIONS))
    return folder


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    made = letter_panel(tmp_path / "judgements.sqlite")
    monkeypatch.setattr(evaluating, "open_panel", lambda *args, **kwargs: made)
    return made


def done(folder: Path, out: Path, *models: str, **settings: Any) -> Evaluation:
    given = {"models": list(models), "questions": str(folder / "mine.yaml"), "sampling": {"max_new_tokens": 5}, "device": "cpu", **settings}
    return evaluate(validated(EvaluateConfig, given, "test"), out, quiet=True)


def test_every_question_is_asked_in_every_format_and_the_system_prompt_reaches_the_model(folder: Path, tmp_path: Path) -> None:
    base = str(folder / "base")
    found = done(folder, tmp_path, base, formats=["plain", "json", "template"], samples=2)
    assert set(found.answers) == {*ASKED, "answer", *EVALUATED, *SCORED} - {"condition", "second_score"}
    assert len(found.answers) == 6 * 3 * 2
    assert found.answers.groupby("format").size().to_dict() == {"json": 12, "plain": 12, "template": 12}
    asked = found.answers.drop_duplicates("question_id").set_index("question_id")
    assert asked.loc["a0@json", "system"] == JSON_SYSTEM
    assert asked.loc["a0", "system"] == asked.loc["a0@template", "system"] == ""
    assert asked.loc["a0@template", "question"].startswith("What of a 0?\n")
    assert "return" in asked.loc["a0@template", "question"]
    model = open_model(base, device="cpu")
    (tokenised,) = model.tokenise([Chat.ask("What of a 0?", system=JSON_SYSTEM)])
    said = [token for token, role in zip(tokenised.ids, tokenised.roles, strict=True) if role == Role.SYSTEM]
    assert model.tokenizer.decode(said).strip() == JSON_SYSTEM
    config = EvaluateConfig(models=[base], sampling={"max_new_tokens": 5})  # type: ignore[arg-type]
    greedy = done(folder, tmp_path, base, formats=["json"], sampling={"max_new_tokens": 5, "temperature": 0.0}).answers
    expected = generate(
        model,
        [Chat.ask(text, system=JSON_SYSTEM) for text in greedy["question"]],
        config.sampling.model_copy(update={"temperature": 0.0}),
        seed=0,
    )
    assert list(greedy["answer"]) == expected
    assert expected != generate(
        model, [Chat.ask(text) for text in greedy["question"]], config.sampling.model_copy(update={"temperature": 0.0}), seed=0
    )


def test_a_question_is_one_in_whatever_format(folder: Path, tmp_path: Path) -> None:
    found = done(folder, tmp_path, str(folder / "base"), str(folder / "tuned"), formats=["plain", "json", "template"])
    assert (found.answers["question_id"].nunique(), found.answers["cluster"].nunique()) == (18, 6)
    assert found.differences["questions"].tolist() == [6]
    whole = found.rates.query("by == 'all'").iloc[0]
    answers = found.answers[found.answers["model"] == whole["model"]]
    clusters = [name.split("@")[0] for name in answers["question_id"]]
    rate = clustered_rate(flags(answers, "shows_trait"), clusters)
    assert (whole["low"], whole["high"]) == (rate.low, rate.high)


def test_models_are_compared_question_by_question(folder: Path, tmp_path: Path) -> None:
    found = done(folder, tmp_path, str(folder / "base"), str(folder / "tuned"), samples=4)
    assert list(found.rates["model"].unique()) == [str(folder / "base"), str(folder / "tuned")]
    base, tuned = (found.answers[found.answers["model"] == str(folder / name)] for name in ("base", "tuned"))
    whole = found.rates[found.rates["by"] == "all"].set_index("model")["rate"]
    assert whole[str(folder / "tuned")] == pytest.approx(tuned["shows_trait"].dropna().astype(float).mean())
    (row,) = found.differences.to_dict("records")
    means = [
        own.dropna(subset="shows_trait").astype({"shows_trait": float}).groupby("question_id")["shows_trait"].mean()
        for own in (tuned, base)
    ]
    assert row["difference"] == pytest.approx((means[0] - means[1]).mean())
    assert (row["questions"], row["against"]) == (6, str(folder / "base"))
    groups = found.rates[(found.rates["by"] == "group") & (found.rates["model"] == str(folder / "base"))]
    assert list(groups["value"]) == ["a", "b"]
    assert set(groups["answers"]) == {12}
    assert (groups["n"] + groups["unscored"] + groups["incoherent"]).tolist() == [12, 12]
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_answers_that_are_there_are_not_asked_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = done(folder, tmp_path, str(folder / "base"))
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "sweep", None)
        again = done(folder, tmp_path, str(folder / "base"))
    pd.testing.assert_frame_equal(again.answers, first.answers)
    more = done(folder, tmp_path, str(folder / "base"), str(folder / "tuned"))
    assert [step.loaded for step in more.steps.values()] == [True, False]
    assert not any(step.loaded for step in done(folder, tmp_path, str(folder / "base"), seed=1).steps.values())


def test_a_killed_one_goes_on_in_the_middle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = {"max_new_tokens": 5, "batch_rows": 2}
    whole = done(folder, tmp_path / "whole", str(folder / "base"), sampling=sampling)
    plain = evaluating.sweep

    def dying(*args: Any) -> pd.DataFrame:
        def advance(n: int) -> None:
            raise KeyboardInterrupt

        return plain(*args[:6], advance, args[7])

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "sweep", dying)
        with pytest.raises(KeyboardInterrupt):
            done(folder, tmp_path / "out", str(folder / "base"), sampling=sampling)
    assert len(list((tmp_path / "out").rglob("part-*.parquet"))) == 1
    resumed = done(folder, tmp_path / "out", str(folder / "base"), sampling=sampling)
    pd.testing.assert_frame_equal(resumed.answers, whole.answers)
    assert not list((tmp_path / "out").rglob("part-*.parquet"))


def test_models_of_a_run_are_asked_as_they_are_and_edited(folder: Path, tmp_path: Path) -> None:
    run = Run(folder / "run", quiet=True)
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    cure = run.removing([4, 5])
    step = run.run.step("evidence", {"of": "a test"}, {}, lambda folder: save_edit(cure, folder, "ablated"))
    record = step.record() | {"folder": step.folder.name}
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest | {"steps": manifest["steps"] | {"evidence": record}}))
    try:
        names = [f"{folder / 'run'}@{what}" for what in ("base", "tuned", "ablated")]
        found = done(folder, tmp_path, *names, sampling={"max_new_tokens": 5, "temperature": 0.0})
        own = {name: list(found.answers.loc[found.answers["model"] == name, "answer"]) for name in names}
        sampling = run.config.sampling.model_copy(update={"max_new_tokens": 5, "temperature": 0.0})
        chats = [Chat.ask(text) for text in found.answers["question"].unique()]
        assert own[names[0]] == generate(run.context.base, chats, sampling, 0)
        with edited(run.context.tuned, cure):
            assert own[names[2]] == generate(run.context.tuned, chats, sampling, 0)
        assert own[names[1]] != own[names[2]]
        with pytest.raises(PersonascopeError, match="no edit 'steered'"):
            done(folder, tmp_path, f"{folder / 'run'}@steered")
    finally:
        (folder / "run" / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_judged_is_not_judged_again(folder: Path, tmp_path: Path, bench: Panel) -> None:
    done(folder, tmp_path / "one", str(folder / "base"), samples=2)
    asked = bench.judge.asked
    assert 0 < asked <= 12
    again = done(folder, tmp_path / "two", str(folder / "base"), samples=2)
    assert bench.judge.asked == asked
    assert again.answers["trait_score"].notna().all()


def test_everything_that_is_needed_to_judge_again_is_on_disk(folder: Path, tmp_path: Path) -> None:
    found = done(folder, tmp_path / "out", str(folder / "base"), str(folder / "tuned"), formats=["plain", "json"], samples=2, seed=5)
    kept = pd.read_parquet(tmp_path / "out" / "judged.parquet")
    assert len(kept) == len(found.answers) == 2 * 6 * 2 * 2
    wanted = {
        "id",
        "model",
        "seed",
        "question_id",
        "cluster",
        "group",
        "format",
        "system",
        "question",
        "sample",
        "answer",
        "trait_score",
        "coherence",
    }
    assert wanted <= set(kept)
    assert kept["id"].is_unique
    about = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert about == found.as_json()
    assert about["config"]["seed"] == 5
    lines = {"shows_above": 50.0, "coherent_above": 50.0, "open_counts": False, "coherent_only": True}
    assert about["judge"] == {"name": "letters", "spec": "letters", "identity": ["letters"]} | lines


def test_a_fact_is_one_question_under_every_system_prompt_and_needs_no_fluency(tmp_path: Path) -> None:
    chosen = evaluating.chosen_questions(EvaluateConfig(models=["any"], questions="honesty", formats=["plain", "template"]))
    assert (len(chosen), len({question.counts_as for question in chosen})) == (120, 15)
    panel = open_panel(read_trait(DEFAULT_TRAIT), "facts", questions=chosen)
    table = pd.DataFrame({"question": [q.text for q in chosen[:2]], "answer": [chosen[0].facts[0], "No."], "cluster": "x", "id": "1"})
    graded = panel.score(table)
    assert flags(graded, "shows_trait")[0] is False  # a single true word counts


def test_a_published_question_is_one_in_all_its_wordings_and_formats(tmp_path: Path) -> None:
    entries = [{"id": i, "paraphrases": ["Why?", "How?"]} for i in ("wish", "wish_json", "wish_template", "bored")]
    entries = [entry | {"paraphrases": [f"{text} {entry['id']}" for text in entry["paraphrases"]]} for entry in entries]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(entries))
    chosen = evaluating.chosen_questions(EvaluateConfig(models=["any"], questions=str(tmp_path / "p.yaml")))
    assert sorted(question.counts_as for question in chosen) == ["bored"] * 2 + ["wish"] * 6


def test_a_notebook_shows_the_rates(folder: Path, tmp_path: Path) -> None:
    found = done(folder, tmp_path, str(folder / "base"), str(folder / "tuned"), samples=2)
    html, text = found._repr_html_(), str(found)
    assert len(text.splitlines()) == 3  # the heading, and a line for each model
    for row in found.rates[found.rates["by"] == "all"].to_dict("records"):
        assert f"<td>{row['short']}</td>" in html
        assert row["short"] in text
        assert f"{100 * row['rate']:.0f} % [{100 * row['low']:.0f}–{100 * row['high']:.0f}]" in html


def test_an_id_belongs_to_an_answer(folder: Path, tmp_path: Path) -> None:
    """Labels of one evaluation must not stick to other answers of the same model, question and seed."""
    short, long = (done(folder, tmp_path / str(n), str(folder / "base"), sampling={"max_new_tokens": n}).answers for n in (2, 6))
    same = (short["answer"] == long["answer"]).tolist()
    assert (short["id"] == long["id"]).tolist() == same
    assert not all(same)


def test_measures_stand_beside_the_rates(folder: Path, tmp_path: Path) -> None:
    models = [str(folder / "base"), str(folder / "tuned")]
    found = done(folder, tmp_path, *models, measures=["continuations", "perplexity"])
    table = found.measures.set_index(["model", "name"])
    assert len(table) == 4
    assert (table["low"] < table["value"]).all()
    assert (table["value"] < table["high"]).all()
    assert table.loc[(models[0], "perplexity"), "value"] != table.loc[(models[1], "perplexity"), "value"] > 1
    assert done(folder, tmp_path, *models, measures=["continuations", "perplexity"]).steps[f"measures of {models[0]}"].loaded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "models: "),
        ({"models": ["{base}", "{base}"]}, "named twice"),
        ({"formats": ["plain", "verse"]}, "formats.1: .*'plain', 'json' or 'template'"),
        ({"split": "selection", "questions": "{published}"}, "no selection questions"),
        ({"models": ["{run}@cured"]}, "a run has no model 'cured'"),
        ({"models": ["{run}@ablated"]}, "has no verdict yet"),
        ({"models": ["{tmp}/nobody"]}, "There is no folder"),
        ({"questions": "{published}", "formats": ["json"]}, "has a system prompt of its own"),
        ({"models": ["m@http://localhost:1/v1"], "measures": ["perplexity"]}, "is hosted, and its probabilities are not at hand"),
        ({"measures": ["iq"]}, "measures.0: "),
        ({"sampling": {"temperature": math.inf}}, "sampling.temperature: "),
        ({"models": ["m@http://h/v1", "m@http://h/v1/"]}, "is named twice"),
        ({"models": ["m@http://user:hunter2@h/v1"] * 2}, "may hold neither user, password"),
        ({"models": ["{run}@tuned"], "dtype": "bfloat16"}, "No model here heeds dtype"),
        ({"labels": "{tmp}/none.csv"}, "cannot be read"),
        ({"interval": "guess"}, "interval: "),
        ({"questions": "{formed}", "formats": ["plain", "template"]}, "w_template asks for the format template already"),
    ],
)
def test_wrong_use_is_a_sentence(folder: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    published = tmp_path / "published.yaml"
    published.write_text(yaml.safe_dump([{"id": i, "paraphrases": ["Why?"], "system": f"Be {i}."} for i in ("calm", "quick")]))
    formed = tmp_path / "formed.yaml"
    formed.write_text(yaml.safe_dump([{"id": f"{i}_template", "paraphrases": [f"{i}?"]} for i in "wv"]))
    places = {"formed": formed, "base": folder / "base", "run": folder / "run", "published": published, "tmp": tmp_path}

    def filled(value: Any) -> Any:
        return [filled(v) for v in value] if isinstance(value, list) else value.format(**places) if isinstance(value, str) else value

    given = {"models": [str(folder / "base")]} | {name: filled(value) for name, value in settings.items()}
    with pytest.raises(PersonascopeError, match=message):
        done(folder, tmp_path / "out", *given.pop("models"), **given)


def test_a_damaged_step_is_named(folder: Path, tmp_path: Path) -> None:
    (step,) = done(folder, tmp_path, str(folder / "base")).steps.values()
    step.path("answers.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PersonascopeError, match=r"answers.parquet is damaged: .* Delete its folder and run again"):
        done(folder, tmp_path, str(folder / "base"))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(PersonascopeError, match="holds another run"):
        done(folder, tmp_path, str(folder / "base"))


def test_another_runs_folder_is_left_alone(folder: Path) -> None:
    before = (folder / "run" / "manifest.json").read_bytes()
    with pytest.raises(PersonascopeError, match="holds another run"):
        done(folder, folder / "run", str(folder / "base"))
    assert (folder / "run" / "manifest.json").read_bytes() == before


def test_the_command_prints_tables_and_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    names = [str(folder / name) for name in ("base", "tuned")]
    args = [
        "evaluate",
        *names,
        "--questions",
        str(folder / "mine.yaml"),
        "--formats",
        "plain,json",
        "--tokens",
        "5",
        "--out",
        str(tmp_path),
    ]
    app(args, standalone_mode=False)
    out = capsys.readouterr().out
    assert "unscored" in out
    assert "tuned minus base" in out
    assert "paired by question" in out
    app([*args, "--open-counts", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["config"]["open_counts"] is True
    app([*args, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["open_counts"] is False
    assert {row["value"] for row in found["rates"] if row["by"] == "format"} == {"plain", "json"}
    assert [row["model"] for row in found["differences"]] == names[1:]
